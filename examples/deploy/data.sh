# shellcheck shell=bash disable=SC2154 # common.sh sets $root, $release, $served, $shared and $disposable
# What must outlive a release: the links to shared/, and the files that a deploy would lose. common.sh sources it.

# --- shared/ ---

# share: puts the links into the release; what it brings at such a place is the first content of shared/, or left out.
# Other releases get links where they have nothing: after a rollback the bot finds the same files.
share() {
    local path one
    while IFS= read -r path; do
        if [[ -z $path ]]; then continue; fi
        share_path "${path%/}" "${path: -1}"
        for one in "$root"/releases/*; do link "$one" "${path%/}"; done
    done <<<"$shared"
}

# share_path PATH LAST: LAST is a slash if PATH is to be a directory.
share_path() {
    local own=$release/$1 target=$root/shared/$1
    inside "$release" "$1" || fail "SHARED: $1: $(dirname "$own") is a link to elsewhere"
    mkdir -p "$(dirname "$target")"
    if [[ -e $own && ! -L $own && ! -e $target ]]; then
        say "$1: what the release brings is now $target"
        mv -T -- "$own" "$target"
        hand_over "$target"
    elif [[ -e $own && ! -L $own ]]; then
        say "$1: what the release brings is left out for $target"
        rm -rf -- "$own"
    elif [[ $2 == / && ! -e $target ]]; then
        mkdir -p "$target"
        hand_over "$target"
    elif [[ ! -e $target ]]; then
        say "$target is not there yet: unless the bot makes this file, put it there ($1/ in SHARED makes a directory)"
    fi
}

# hand_over PATH: what root makes in shared/ gets the owner of shared/, who is the bot's user.
hand_over() {
    if ((EUID == 0)); then chown -R --reference="$root/shared/" -- "$1"; fi
}

# link RELEASE PATH: has PATH in a release name shared/PATH, if there is nothing.
link() {
    if [[ -e $1/$2 || -L $1/$2 ]] || ! inside "$1" "$2"; then return; fi
    mkdir -p "$(dirname "$1/$2")"
    ln -s "$(text_of_link "$2")" "$1/$2"
}

# text_of_link PATH: relative, so that the whole tree can be moved, or mounted elsewhere.
text_of_link() {
    local up=../../ rest=$1
    while [[ $rest == */* ]]; do up+=../ rest=${rest#*/}; done
    printf '%s\n' "${up}shared/$1"
}

inside() { [[ $(realpath -m "$1/$(dirname "$2")")/ == "$1"/* ]]; }

# --- what a deploy must not lose ---

# guard: stops if a release that the bot leaves, or that would be removed, holds what no deploy can bring back.
guard() {
    local one names refused="" at_stake
    at_stake=$(at_stake)
    while IFS= read -r one; do
        if [[ -z $one ]]; then continue; fi
        names=$(foreign "$one")
        if [[ -z $names ]]; then continue; fi
        refuse "$one" "$names"
        refused=yes
    done <<<"$at_stake"
    if [[ -n $refused ]]; then exit 1; fi
    forgotten
}

# at_stake: the release that serves (after a rollback not the current one), the current one, those to be removed, and the
# new one if it is there from an earlier deploy.
at_stake() {
    {
        lines "$served"
        if [[ -e $root/current ]]; then realpath "$root/current"; fi
        if ! building; then printf '%s\n' "$release"; fi
        surplus
    } | sort -u
}

# files DIR: all files in it but those that can be made again. Symlinks are none: what is shared is not in the release.
files() {
    (cd "$1" && find . \( -name __pycache__ -o -path ./.venv \) -prune -o -type f ! -path './.bastion-*' -printf '%P\n')
}

# brought DIR: what the deploy of a release has brought. One without a manifest is compared with the new release.
brought() {
    if [[ -e $1/.bastion-manifest ]]; then cut -c 67- "$1/.bastion-manifest"; else files "$release"; fi
}

# changed DIR: files that the deploy has brought, and that are not as it brought them.
changed() {
    if [[ ! -e $1/.bastion-manifest ]]; then return; fi
    (
        cd "$1" || exit
        sha256sum --check --quiet --ignore-missing .bastion-manifest 2>/dev/null || true
    ) | sed -n 's/: FAILED.*$//p'
}

# foreign DIR: the files in a release that the deploy did not bring like this, and that are not disposable.
foreign() {
    local here brought changed
    here=$(files "$1" | sort)
    brought=$(brought "$1" | sort)
    changed=$(changed "$1" | sort)
    {
        comm -13 <(lines "$brought") <(lines "$here")
        comm -12 <(lines "$changed") <(lines "$here") # not what is a link to shared/ by now
    } | sort -u | without_disposable "$1"
}

# without_disposable DIR: leaves out of its input what BASTION_DISPOSABLE names, and hard links to what is in shared/.
without_disposable() {
    local name pattern
    while IFS= read -r name; do
        while IFS= read -r pattern; do
            # shellcheck disable=SC2053 # a pattern
            if [[ -n $pattern && ($name == $pattern || $name == $pattern/*) ]]; then continue 2; fi
        done <<<"$disposable"
        if [[ ! $1/$name -ef $root/shared/$name ]]; then printf '%s\n' "$name"; fi
    done
}

# forgotten: stops if the current release has links to shared/ that the new one would not have.
forgotten() {
    local links path
    if [[ ! -e $root/current ]]; then return; fi
    links=$(cd "$root/current" && find . -path ./.venv -prune -o -type l -lname '*../../shared/*' -printf '%P\n')
    while IFS= read -r path; do
        if [[ -z $path || $(readlink "$root/current/$path") != "$(text_of_link "$path")" ]]; then continue; fi
        if named "$path"; then continue; fi
        fail "$path is shared by the current release, but not in SHARED: name it there, or remove $root/current/$path"
    done <<<"$links"
}

# refuse DIR NAMES: says what is in the way, and what to do about it.
refuse() {
    local first place target replaced="" shared_after=$SHARED
    first=$(head -n 5 <<<"$2" | paste -s -d ' ')
    say "stopped: $1 holds files that its deploy did not bring, or not like this ($(wc -l <<<"$2")): $first"
    if [[ ! $1 -ef $root/current ]] && ! grep -qxF -e "$1" <<<"$served"; then
        say "it would be removed, or run again with them: move what is worth keeping, remove the rest yourself"
        return
    fi
    say "the new release would be without them. Nothing was removed, and a bot that runs serves on."
    say "To keep them for all releases: stop the bot (a database must not be moved while it is open), and"
    while IFS= read -r place; do
        target=$root/shared/${place%/}
        if named "$place"; then replaced+=" $place"; fi
        if [[ ! -e ${target%/*} ]]; then printf '    mkdir -p %q\n' "${target%/*}" >&2; fi
        printf '    mv -iT %q %q\n' "$1/${place%/}" "$target" >&2
        shared_after=$(with_path "$shared_after" "$place")
    done < <(places "$1" "$2" | sort -u)
    printf '    echo "SHARED='"'%s'"'" >> %q\n' "${shared_after//\"/\\\"}" "$root/deploy.conf" >&2
    if [[ -n $replaced ]]; then
        say "In SHARED already:$replaced. If the bot renames a new file into that place, that replaces the link:"
        say "share a directory for it."
    fi
    say "then deploy again, and start the bot. What may be lost instead: BASTION_DISPOSABLE names its pattern."
}

# places DIR NAMES: the names, but a directory (with a slash) where the deploy has brought nothing in that directory.
places() {
    local name brought
    brought=$'\n'$(brought "$1")
    while IFS= read -r name; do
        if [[ $name == */* && $brought != *$'\n'"${name%%/*}/"* ]]; then name=${name%%/*}/; fi
        printf '%s\n' "$name"
    done <<<"$2"
}

# with_path SHARED PATH: SHARED with one more. SQLite finds the files beside a database where the database's link leads.
with_path() {
    case $2 in *-wal | *-shm | *-journal) echo "$1" && return ;; esac
    if named "$2"; then echo "$1" && return; fi
    case $2 in *[[:space:]]*) echo "${1:+$1 }\"$2\"" ;; *) echo "${1:+$1 }$2" ;; esac
}

# named PATH: SHARED has it.
named() { grep -qxF -e "${1%/}" -e "${1%/}/" <<<"$shared"; }
