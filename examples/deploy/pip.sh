#!/bin/sh
# Deploy a bot that is a package: pip.sh REQUIREMENT..., such as: pip.sh bastion-supervisor mybot==1.4.2. The release is
# an environment and nothing else; bot.app names a module of the package.
set -eu
. "$(dirname "$0")/common.sh"

release=$root/releases/$(date -u +%Y%m%d-%H%M%S-%N)
"$python" -m venv "$release/.venv"
"$release/.venv/bin/python" -m pip install --quiet "$@"
activate "$release"
prune
