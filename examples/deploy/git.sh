#!/bin/bash
# Deploy what a branch holds, on the machine itself: git.sh [BRANCH]. The clone is in $BASTION_ROOT/repository:
#   git clone https://example.org/mybot.git /srv/bastion/repository
. "$(dirname "$0")/common.sh"

git -C "$root/repository" fetch --quiet origin "${1:-main}"
commit=$(git -C "$root/repository" rev-parse --short=12 FETCH_HEAD)
begin "$commit"
if building; then git -C "$root/repository" archive "$commit" | tar -x -C "$release"; fi
finish "$release"
