#!/usr/bin/env bash
# A trained model in a running node: records a small bag of rendered scenes, evaluates it without ROS, then plays it over
# real DDS into the recognizer and prints the labels and the latency that came back.
# usage: scripts/demo_ros.sh RUN [FOLDER [CLASS ...]]       the scenes show these household classes only
set -euo pipefail
root=$(realpath -- "$(dirname -- "$0")/..")
run=$1 # or the name of a model in the package
[ ! -e "$run" ] || run=$(realpath --relative-base="$root" -- "$run")
out=${2:+$(realpath -m --relative-base="$root" -- "$2")}
out=${out:-demo/ros}
classes=("${@:3}")
cd -- "$root"
python=${PYTHON:-python3}
. scripts/demo_folder.sh
case ${ROS_DISTRO:-} in
  humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE=$PWD/config/fastdds.xml ;;
  *) export FASTDDS_DEFAULT_PROFILES_FILE=$PWD/config/fastdds.xml ;;
esac
# By itself, whatever the caller has set for a robot: neither that robot nor another demonstration gets these pictures.
unset RMW_IMPLEMENTATION ROS_DISCOVERY_SERVER ROS_LOCALHOST_ONLY ROS_NAMESPACE ROS_STATIC_PEERS
export ROS_DOMAIN_ID=$((1 + $$ % 100)) ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
[ "${ROS_DISTRO:-}" != humble ] || export ROS_LOCALHOST_ONLY=1

make_room "$out" bag truth.csv evaluation log
export ROS_LOG_DIR=$out/log # else a folder in HOME, which may be missing
"$python" -m mmcl_ros.record_demo --out "$out" --frames 30 --seed 1 ${classes:+--classes "${classes[@]}"}
"$python" -m mmcl_ros.evaluate_bag --bag "$out/bag" --truth "$out/truth.csv" --model "$run" \
  --modality rgb depth rgbd --out "$out/evaluation"

"$python" -m mmcl_ros.recognizer_node --ros-args --log-level error \
  -p model:="$run" -p modality:=auto -p policy:=every -p roi_source:=detections \
  -r rgb/image:=/camera/color/image_raw -r depth/image:=/camera/aligned_depth_to_color/image_raw &
node=$!
trap 'kill $node 2>/dev/null; wait $node 2>/dev/null || true' EXIT
"$python" -m mmcl_ros.play_bag --bag "$out/bag" --truth "$out/truth.csv"
