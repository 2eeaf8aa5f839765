#!/bin/bash
# Deploy a directory from your machine: rsync.sh DIRECTORY [HOST]. Without HOST it goes to this machine. What has not
# changed since the current release is linked, not copied.
here=$(dirname "$0")
. "$here/common.sh"

source=${1:?which directory? rsync.sh DIRECTORY [HOST]}
host=${2:-}
id=$(date -u +%Y%m%d-%H%M%S-%N)
release=$root/releases/$id

# there FUNCTION WORD...: calls a function of common.sh where the bot runs, with the variables that are set here.
there() {
    local name
    if [[ -z $host ]]; then
        "$@" # in no list and no condition: there, bash would not stop at what fails inside
        return
    fi
    {
        printf 'export BASTION_ROOT=%q\n' "$root"
        for name in BASTION_CONFIG SUPERVISOR PYTHON KEEP SHARED BASTION_DISPOSABLE BASTION_PACKAGE; do
            if [[ -n ${!name:-} ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
        done
        cat "$here/data.sh" "$here/common.sh"
        printf '%q ' "$@" && echo '</dev/null; trap - EXIT' # what `begin` has made is to stay
    } | ssh "$host" bash -s
}

there begin "$id"
rsync --archive --protect-args --exclude .git --exclude .venv \
    --link-dest "$root/current/" "$source/" "${host:+$host:}$release/"
there finish "$release"
