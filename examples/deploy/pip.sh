#!/bin/bash
# Deploy a bot that is a package: pip.sh REQUIREMENT..., such as: pip.sh mybot==1.4.2. The release is an environment and
# nothing else; bot.app or bot.program ("-m mybot") names a module of the package.
. "$(dirname "$0")/common.sh"

: "${1:?what is to be installed? pip.sh REQUIREMENT...}"
id=$(date -u +%Y%m%d-%H%M%S-%N)
begin "$id"
finish "$release" "$@"
