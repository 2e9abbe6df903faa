#!/usr/bin/env bash
# The main job from nothing: rendered household objects -> a trained recogniser -> its report.
# usage: scripts/demo.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-demo}
python=${PYTHON:-python3}

step() { printf '\n== %s\n' "$*"; }

rm -rf "$out"
step "1/3  Rendering RGB-D crops of household objects"
"$python" -m mmcl_core.render --objects household --out "$out/household" --count 4800 --size 64 --seed 0
step "2/3  Training one recogniser for both sensors"
"$python" -m mmcl_core.train --config config/demo.yaml --data "$out/household" --out "$out/run"
step "3/3  Evaluating on instances that were never seen"
"$python" -m mmcl_core.evaluate "$out/run" --data "$out/household" --split test
printf '\nReport: %s\n' "$out/run/report/index.html"
