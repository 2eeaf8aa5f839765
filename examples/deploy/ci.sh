#!/bin/sh
# The last step of a pipeline: ci.sh ARCHIVE, a tar that an earlier step made and that has been copied to this machine,
# as in: scp mybot.tar.gz bot.example.org: && ssh bot.example.org ci.sh mybot.tar.gz
# The step fails if the handoff fails, and the old bot serves on.
set -eu
. "$(dirname "$0")/common.sh"

id=$(sha256sum "$1" | cut -c -12)
release=$root/releases/$id
if [ ! -e "$release" ]; then
    mkdir -p "$release.new"
    tar -x -f "$1" -C "$release.new"
    mv "$release.new" "$release"
    environment "$release"
fi
touch "$release" # the newest, for prune
activate "$release"
prune
