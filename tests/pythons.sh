#!/bin/sh
# The Pythons that the product is made for and that are here, oldest first: a line "VERSION PATH" each.
# With --install, Debian's packages of those that are missing are installed first, where that may be done (Debian, as
# root). What is missing in the end is said on standard error.
set -eu

found() { # every interpreter of one minor version: on PATH, Debian's own, pyenv's
  { command -v "python$1" || true; ls -d "/usr/bin/python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python 2>/dev/null || true; } |
    while read -r python; do
      # Debian has ensurepip in a package of its own (python3-venv).
      "$python" -c 'import ensurepip, sys; print("%d.%d.%d" % sys.version_info[:3], sys.executable)' 2>/dev/null || true
    done
}

for minor in 3.11 3.12 3.13 3.14; do
  if [ -z "$(found $minor)" ] && [ "${1:-}" = --install ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -qq "python$minor-venv" >/dev/null 2>&1 || true
  fi
  [ -n "$(found $minor)" ] || echo "skipped: no Python $minor is here, and no Debian package of it could be had" >&2
  found $minor
done | sort -t. -k1,1n -k2,2n -k3,3n | awk '!seen[$1]++'
