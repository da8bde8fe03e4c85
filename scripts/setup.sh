#!/bin/sh
# Installs what building and testing nnlua needs, where something is missing; otherwise does nothing and
# touches no network.  On Debian and Ubuntu it installs as root or with sudo; elsewhere it says what to install.
#
#   sh scripts/setup.sh [build|test]     build: compiler, Lua, zlib, libedit, the images; test: also busted, luacheck, OpenBLAS
set -eu
what=${1:-build}

have_header() { printf '#include <%s>\nint main(void){return 0;}\n' "$1" | ${CC:-cc} -I/usr/include/lua5.4 -xc -fsyntax-only - 2>/dev/null; }
have() { command -v "$1" >/dev/null 2>&1; }

missing=""
need() { missing="$missing $1"; }

have make || need make
have cc || have gcc || have clang || need gcc
have pkg-config || need pkg-config
if have cc || have gcc || have clang; then
  have_header lua.h || need lua
  have_header zlib.h || need zlib
  have_header editline/readline.h || need libedit
else
  need lua; need zlib; need libedit
fi
have lua5.4 || need lua-command
if [ "$what" = test ]; then
  have busted || need busted
  have luacheck || need luacheck
  [ "${BLAS:-openblas}" = none ] || { have pkg-config && pkg-config --exists openblas; } || need openblas
fi
# The images are worth having, but nothing fails without them.
if [ -z "${NNLUA_DATA:-}" ] && [ ! -e /usr/share/dataset-fashion-mnist ] && ! ls /usr/share/datasets/fashion-mnist >/dev/null 2>&1; then
  if have apt-get; then need images; fi
fi

[ -n "$missing" ] || exit 0

debian_name() {
  case "$1" in
    make) echo make ;; gcc) echo gcc libc6-dev ;; pkg-config) echo pkg-config ;; lua) echo liblua5.4-dev ;;
    lua-command) echo lua5.4 ;; zlib) echo zlib1g-dev ;; libedit) echo libedit-dev ;;
    openblas) echo libopenblas-serial-dev ;; busted) echo lua-busted ;; luacheck) echo lua-check ;;
    images) echo dataset-fashion-mnist ;;
  esac
}

names() { for m in $missing; do "$1" "$m"; done | tr '\n' ' '; }

if have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; then
  sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
  packages=$(names debian_name)
  echo "nnlua: installing $packages"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  if ! $sudo apt-get install -y -qq $packages >/dev/null 2>&1; then
    $sudo apt-get update -qq
    for p in $packages; do
      $sudo apt-get install -y -qq "$p" >/dev/null 2>&1 || {
        case "$p" in
          dataset-fashion-mnist) echo "nnlua: $p is not to be had; the small digits data set will do" ;;
          *) echo "nnlua: $p could not be installed" >&2; exit 1 ;;
        esac
      }
    done
  fi
  exit 0
fi

cat >&2 <<TEXT
nnlua needs:$missing
Please install them with your system's packages:
  Fedora    dnf install gcc make pkgconf-pkg-config lua lua-devel openblas-serial64 openblas-devel zlib-devel libedit-devel lua-busted
  Arch      pacman -S gcc make pkgconf lua54 openblas zlib libedit luarocks   (then: luarocks --lua-version 5.4 install busted)
  Alpine    apk add gcc musl-dev make pkgconf lua5.4 lua5.4-dev openblas-dev zlib-dev libedit-dev lua5.4-busted
  Homebrew  brew install lua openblas libedit pkg-config luarocks             (then: luarocks install busted)
OpenBLAS serves specs and benchmarks only (make BLAS=none: without it); zlib and libedit are optional.
TEXT
for m in $missing; do
  case "$m" in make|gcc|lua) exit 1 ;; esac
done
exit 0
