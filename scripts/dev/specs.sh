#!/usr/bin/env bash
# Runs busted specs on a build:  scripts/dev/specs.sh BUILD SPEC...
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$1
shift
export NNLUA_BUILD=$build
export LUA_CPATH="$build/?.so;;" LUA_PATH="./?.lua;./spec/?.lua;;"
exec busted --lua="${LUA:-/usr/bin/lua5.4}" -o plainTerminal --pattern=_spec "$@"
