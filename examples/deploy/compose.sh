#!/bin/sh
# Deploys $BASTION_IMAGE by Compose under two project names in turn: the new container comes up beside the old one, and
# the old one is stopped once the new one could take over. If that does not come to be, the new one is removed again.
#   BASTION_IMAGE=registry/bot:42 DISCORD_TOKEN=... compose.sh
# What the bot has written into its container would go with it: that stops the deploy, unless it is what
# BASTION_DISPOSABLE names ("*.log cache"). Databases and the like belong on a volume.
# $COMPOSE ("docker compose") may hold options; PATIENCE (600) is how many seconds the new one may take: for many shards
# `supervisor check --deploy` reckons it. One that ends is given up at once, though its engine starts it again.
set -eu

compose=${COMPOSE:-docker compose}
file=${COMPOSE_FILE:-$(dirname "$0")/compose.yaml}
export COMPOSE_FILE="$file"

container() {
    docker ps --quiet --filter "label=com.docker.compose.project=bastion-$1" --filter "label=com.docker.compose.service=bot"
}

# ended CONTAINER: it has gone, or has been started again.
ended() {
    [ -z "$1" ] || [ "$(docker inspect --format '{{.RestartCount}}' "$1" 2>/dev/null)" -gt 0 ] 2>/dev/null
}

# written CONTAINER: the files below /srv/bastion that are in the container alone: not in its image, nor on a volume.
written() {
    changes=$(docker diff "$1")
    printf '%s\n' "$changes" | sed -n 's|^A /srv/bastion/||p' | while IFS= read -r name; do
        set -f # patterns, not the files that they match here
        for pattern in ${BASTION_DISPOSABLE:-} __pycache__; do
            # shellcheck disable=SC2254 # a pattern
            case /$name/ in */$pattern/*) continue 2 ;; esac
        done
        printf '%s\n' "$name"
    done
}

new=blue old=green
if [ -n "$(container blue)" ]; then new=green old=blue; fi
if [ -n "$(container "$new")" ]; then
    echo "both bastion-blue and bastion-green run: a deploy is under way, or one was cut off; stop the one to go" >&2
    exit 1
fi

if [ -n "$(container "$old")" ]; then
    names=$(written "$(container "$old")")
    if [ -n "$names" ]; then
        echo "not deployed, and bastion-$old serves on: the bot has written below /srv/bastion in its container," >&2
        echo "and that would be gone with it: $names" >&2
        echo "Stop the bot, copy that out (docker cp $(container "$old"):/srv/bastion/...), and mount it." >&2
        exit 1
    fi
fi

$compose --project-name "bastion-$new" up --detach
deadline=$(($(date +%s) + ${PATIENCE:-600}))
until [ "$(docker inspect --format '{{.State.Health.Status}}' "$(container "$new")" 2>/dev/null)" = healthy ]; do
    if [ "$(date +%s)" -gt "$deadline" ] || ended "$(container "$new")"; then
        echo "bastion-$new is not healthy; bastion-$old serves on. The new one's last words:" >&2
        $compose --project-name "bastion-$new" logs --tail 20 >&2
        $compose --project-name "bastion-$new" down >&2
        exit 1
    fi
    sleep 0.5
done
if [ -n "$(container "$old")" ]; then
    $compose --project-name "bastion-$old" down
fi
echo "bastion-$new serves"
