# shellcheck shell=bash
# How a release is made, activated and removed: what the scripts beside this file share. All is below $BASTION_ROOT:
#   releases/<id>   one directory each; .bastion-manifest in it lists what the deploy brought, with checksums
#   shared/         the operator's: .env, databases, uploads. Each release has links to it
#   current         symlink to the release that runs; bot.directory in the settings names it
#   deploy.conf     sets the variables below for every deploy, in shell; what it says wins
# $BASTION_CONFIG names the settings file, as for every command of the supervisor.

set -euo pipefail
shopt -s inherit_errexit
# shellcheck source=data.sh
if ! declare -F guard >/dev/null; then . "$(dirname "${BASH_SOURCE[0]}")/data.sh"; fi # rsync.sh sends both
export LC_ALL=C # for sort, comm and the words of sha256sum

root=$(realpath -m "${BASTION_ROOT:-/srv/bastion}")
# shellcheck source=/dev/null
if [[ -e $root/deploy.conf ]]; then . "$root/deploy.conf"; fi

supervisor=${SUPERVISOR:-/opt/bastion/bin/supervisor}
python=${PYTHON:-python3}
keep=${KEEP:-5}              # so many releases stay, the new one included
SHARED=${SHARED:-}           # paths in a release that are links to shared/: SHARED=".env bot.db uploads/"
BASTION_DISPOSABLE=${BASTION_DISPOSABLE:-} # patterns of files that may go with their release: "*.log cache"
# $BASTION_PACKAGE: what pip installs as bastion-supervisor. Default: the supervisor's own version, from the index.

say() { printf 'deploy: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}
lines() { if [[ -n $1 ]]; then printf '%s\n' "$1"; fi; }

# words TEXT: its words, one a line; quotes keep a name with a space together.
words() { xargs -r printf '%s\n' <<<"$1"; }

shared=$(words "$SHARED") || fail "SHARED cannot be read: $SHARED"
disposable=$(words "$BASTION_DISPOSABLE") || fail "BASTION_DISPOSABLE cannot be read: $BASTION_DISPOSABLE"
if [[ ! $keep =~ ^[1-9][0-9]*$ ]]; then fail "KEEP: $keep: write a number from 1 on"; fi
while IFS= read -r path; do
    case /${path%/}/ in
    //) ;; # an empty SHARED
    //* | */../* | */./* | /.venv/*) fail "SHARED: $path: write paths inside the release, and outside of its .venv" ;;
    esac
done <<<"$shared"

# --- a release, from its directory to its manifest ---

# begin ID: makes $release, unless that id is there already. Until its manifest is written, it is `building`.
begin() {
    mkdir -p "$root/releases" "$root/shared"
    alone
    release=$root/releases/$1
    if building; then rm -rf -- "$release"; fi # was cut off: no bot has run in it
    if [[ -e $release ]]; then return; fi
    trap abandon EXIT
    mkdir "$release"
    touch "$release/.bastion-building"
}

building() { [[ -e $release/.bastion-building ]]; }

abandon() {
    if building; then
        rm -rf -- "$release"
        say "not deployed: the new release was removed again. What runs and what is current is as it was"
    fi
}

alone() {
    exec 9>"$root/deploy.lock"
    flock --nonblock 9 || fail "another deploy is under way: $root/deploy.lock is locked"
}

# finish RELEASE [WORD...]: builds it, hands over to it, removes old ones. WORDs are for pip, instead of requirements.txt.
finish() {
    release=$1
    shift
    alone
    trap abandon EXIT
    served=$(running) || fail "not deployed: the supervisor does not say what runs; see: $supervisor status"
    if [[ $# == 0 && -e $release/requirements.txt ]]; then set -- --requirement "$release/requirements.txt"; fi
    guard
    if building; then
        if (($#)); then environment "$@"; fi
        guard # a build takes its time, and the bot writes on
    fi
    share
    if building; then manifest; fi
    activate
    prune
}

# environment WORD...: a .venv of the release's own, with what it asks for and the product.
environment() {
    local pip=("$release/.venv/bin/python" -I -m pip --quiet) # -I: what PYTHONPATH has is not in the release
    "$python" -m venv "$release/.venv"
    "${pip[@]}" install "$@"
    if "${pip[@]}" show bastion-supervisor >/dev/null 2>&1; then return; fi
    local package=${BASTION_PACKAGE:-bastion-supervisor==$("$supervisor" --version | sed 's/.* //')}
    "${pip[@]}" install "$@" "$package" || # all at once, so that both keep to the same versions
        fail "$package cannot be installed: name it in the requirements, or a clone or a wheel in BASTION_PACKAGE"
}

# manifest: lists what the release has now: all of this the deploy has brought.
manifest() {
    (cd "$release" && files . | tr '\n' '\0' | xargs -0r sha256sum --) >"$release/.bastion-building"
    mv "$release/.bastion-building" "$release/.bastion-manifest"
    touch --date @0 "$release/.bastion-manifest" # its date says when it last became current: never, so far
}

# --- the switch, and after it ---

# activate: hands over to the release. Its exit code is the deploy's result; if it fails, `current` is moved back.
activate() {
    local code=0 said
    said=$("$supervisor" status 2>&1) || code=$?
    case $code in
    0) "$supervisor" reload --release "$release" ;;
    3) name_current ;;
    *)
        say "not deployed: $said"
        exit "$code"
        ;;
    esac
    touch --no-create "$release" "$release/.bastion-manifest"
}

# name_current: no supervisor runs, as before the first start.
name_current() {
    ln -s "releases/${release##*/}" "$root/.current.$$"
    mv -T -- "$root/.current.$$" "$root/current"
    "$supervisor" check >&2 || true # it may fail for the token alone, which is the supervisor's and not the deploy's
    say "$root/current names the new release. No supervisor runs: start its service, or: $supervisor run"
}

# surplus: the releases that may go when the new one serves, for $keep are there without them.
surplus() {
    local one kept=1
    by_age | while IFS= read -r one; do
        if [[ $one -ef $release ]]; then continue; fi
        if ((kept < keep)); then kept=$((kept + 1)) && continue; fi
        if [[ ! $one -ef $root/current ]]; then printf '%s\n' "$one"; fi
    done
}

# by_age: the releases, by the time when they last became current, newest first.
by_age() {
    local one date
    for one in "$root"/releases/*; do
        if [[ ! -d $one || -e $one/.bastion-building ]]; then continue; fi
        date=$one/.bastion-manifest
        if [[ ! -e $date ]]; then date=$one; fi
        printf '%s %s\n' "$(stat --format %.Y "$date")" "$one"
    done | sort -rn | cut -d ' ' -f 2-
}

# prune: removes all but the newest $keep releases, and what served until now: `rollback` goes there.
prune() {
    local one running surplus names
    if ! running=$served$'\n'$(running); then
        say "no release was removed: the supervisor does not say what runs"
        return
    fi
    surplus=$(surplus)
    while IFS= read -r one; do
        if [[ -z $one ]] || grep -qxF -e "$one" <<<"$running"; then continue; fi
        names=$(foreign "$one")
        if [[ -n $names ]]; then
            say "$one is kept: it holds files that its deploy did not bring"
        else
            rm -rf -- "$one"
        fi
    done <<<"$surplus"
    # What was cut off a day ago, such as a transfer: no bot has run in it.
    find "$root/releases" -mindepth 2 -maxdepth 2 -name .bastion-building -mmin +1440 -printf '%h\0' | xargs -0r rm -rf --
}

# running: the releases that a bot runs in now, lingering ones too.
running() {
    local code=0 said
    said=$("$supervisor" status --json 2>/dev/null) || code=$?
    if ((code == 3)); then return; fi
    if ((code)); then return "$code"; fi
    "$python" -c 'import json, sys
for child in json.load(sys.stdin)["children"]: print(child["release"])' <<<"$said"
}
