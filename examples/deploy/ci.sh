#!/bin/bash
# The last step of a pipeline: ci.sh ARCHIVE, a tar that an earlier step made and that has been copied to this machine,
# as in: scp mybot.tar.gz bot.example.org: && ssh bot.example.org ci.sh mybot.tar.gz
# The step fails if the handoff fails, and the old bot serves on.
. "$(dirname "$0")/common.sh"

archive=${1:?which archive? ci.sh ARCHIVE}
id=$(sha256sum <"$archive" | cut -c -12)
begin "$id"
if building; then tar -x -f "$archive" -C "$release"; fi
finish "$release"
