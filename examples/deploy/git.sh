#!/bin/sh
# Deploy what a branch holds, on the machine itself: git.sh [BRANCH]. The clone is in $BASTION_ROOT/repository:
#   git clone https://example.org/mybot.git /srv/bastion/repository
set -eu
. "$(dirname "$0")/common.sh"

git -C "$root/repository" fetch --quiet origin "${1:-main}"
commit=$(git -C "$root/repository" rev-parse --short=12 FETCH_HEAD)
release=$root/releases/$commit
if [ ! -e "$release" ]; then
    mkdir -p "$release.new"
    git -C "$root/repository" archive "$commit" | tar -x -C "$release.new"
    mv "$release.new" "$release"
    environment "$release"
fi
touch "$release" # the newest, for prune
activate "$release"
prune
