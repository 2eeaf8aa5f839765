#!/bin/sh
# Deploy a directory from your machine: rsync.sh DIRECTORY [HOST]. Without HOST it goes to this machine. What has not
# changed since the current release is linked, not copied.
set -eu
. "$(dirname "$0")/common.sh"

source=$1
host=${2:-}
release=$root/releases/$(date -u +%Y%m%d-%H%M%S-%N)

# there COMMAND...: runs it where the bot runs.
there() {
    if [ -n "$host" ]; then ssh "$host" "BASTION_CONFIG=${BASTION_CONFIG:-} $*"; else "$@"; fi
}

rsync --archive --exclude .git --exclude .venv --link-dest "$root/current/" "$source/" "${host:+$host:}$release/"
there touch "$release"
if [ -e "$source/requirements.txt" ]; then
    there "$python" -m venv "$release/.venv"
    there "$release/.venv/bin/python" -m pip install --quiet --requirement "$release/requirements.txt"
fi
there "$supervisor" reload --release "$release"
