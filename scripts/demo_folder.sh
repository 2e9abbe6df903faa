# Sourced by demo.sh and demo_ros.sh: what they do with the folder that they are given.

# Make room for NAME... in FOLDER: what an earlier demonstration has left there is removed. Without the mark of one it is
# somebody's own; then nothing is removed, and the script ends.
# usage: make_room FOLDER NAME...
make_room() {
  local folder=$1 mark=$1/.mmcl_demo name lock
  shift
  for name in "$@"; do
    if [ -e "$folder/$name" ] && [ ! -e "$mark" ]; then
      echo "error: $folder/$name is there, and no demonstration has left its mark ($mark);" \
        "name another folder, or remove it" >&2
      exit 2
    fi
  done
  mkdir -p -- "$folder"
  exec {lock}>"$mark" # held until the script and what it has started have ended
  flock --nonblock "$lock" || [ $? -ne 1 ] || { # other than 1: file systems that cannot lock
    echo "error: another demonstration is at work in $folder; wait for it, or name another folder" >&2
    exit 2
  }
  for name in "$@"; do
    rm -rf -- "$folder/$name"
  done
}
