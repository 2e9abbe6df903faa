#!/usr/bin/env bash
# The main job from nothing: rendered household objects -> a trained recogniser -> its report -> a running ROS 2 node.
# usage: scripts/demo.sh [FOLDER]
set -euo pipefail
root=$(realpath -- "$(dirname -- "$0")/..")
out=${1:+$(realpath -m --relative-base="$root" -- "$1")}
out=${out:-demo}
cd -- "$root"
python=${PYTHON:-python3}
. scripts/demo_folder.sh
classes=(ball banana book bottle bowl can carton mug pan pen plate scissors)

step() { printf '\n== %s\n' "$*"; }

make_room "$out" household household.partial run ros # what is written here, and nothing else that lies beside it
step "1/4  Rendering RGB-D crops of household objects"
began=$(date +%s)
"$python" -m mmcl_core.render --objects household --out "$out/household" --count 10800 --size 64 --neighbours 0 \
  --split train=0.87,val=0.05,test=0.08 --classes "${classes[@]}"
rendered=$(($(date +%s) - began))
step "2/4  Training one recogniser for both sensors"
has_bf16='import sys, torch
from mmcl_core.engine.device import multiplies_bf16, train_device
sys.exit(not multiplies_bf16(train_device("auto")))'
share=20 # hundredths of the time of rendering that an epoch takes in float32; half as many, or fewer, in bfloat16
if "$python" -c "$has_bf16"; then share=10; fi
epochs=$(((520 - rendered) * 100 / (share * (rendered + 1)))) # those that end in 8 min 40 s
epochs=$((epochs < 8 ? 8 : epochs))
shorter=()
if [ "$epochs" -lt 28 ]; then
  echo "Rendering took $rendered s: training is cut to $epochs epochs (28 in config/demo.yaml), so as to end in time"
  shorter=(train.epochs="$epochs")
fi
"$python" -m mmcl_core.train --config config/demo.yaml --data "$out/household" --out "$out/run" "${shorter[@]}"
step "3/4  Evaluating RGB alone, depth alone and both, on instances that were never seen"
"$python" -m mmcl_core.evaluate "$out/run" --data "$out/household" --split test
step "4/4  The same recogniser as a ROS 2 node, fed with a recorded bag"
if why=$(env -u RMW_IMPLEMENTATION "$python" -c 'import rclpy, mmcl_ros.msg' 2>&1); then # as demo_ros.sh has it
  PYTHON=$python scripts/demo_ros.sh "$out/run" "$out/ros" "${classes[@]}"
else
  echo "skipped: rclpy or the messages of mmcl_ros are not installed for $python (${why##*$'\n'})"
fi
printf '\nReport: %s\n' "$(cd "$out" && pwd)/run/report/index.html"
