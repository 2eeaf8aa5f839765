# What the scripts beside this one share; they source it. Everything is below $BASTION_ROOT:
#   releases/<id>   one directory each, never changed once it has run
#   current         symlink to the one that runs; bot.directory in the settings names it
# $BASTION_CONFIG names the settings file, as for every command of the supervisor.

root=${BASTION_ROOT:-/srv/bastion}
supervisor=${SUPERVISOR:-/opt/bastion/bin/supervisor}
python=${PYTHON:-python3}
keep=${KEEP:-5}

# environment DIR: a .venv of the release's own, if it says what it needs.
environment() {
    [ -e "$1/requirements.txt" ] || return 0
    "$python" -m venv "$1/.venv"
    "$1/.venv/bin/python" -m pip install --quiet --requirement "$1/requirements.txt"
}

# activate DIR: hand over to it. Its exit code is the deploy's result; if it fails, `current` is moved back.
activate() {
    "$supervisor" reload --release "$1"
}

# prune: remove all but the newest $keep releases, never the one that is current. `rollback` needs the one before.
prune() {
    current=$(readlink -f "$root/current")
    ls -1t "$root/releases" | tail -n "+$((keep + 1))" | while read -r id; do
        [ "$root/releases/$id" -ef "$current" ] || rm -rf "${root:?}/releases/$id"
    done
}
