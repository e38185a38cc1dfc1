#!/bin/sh
# usage: deps.sh FILE... Installs the packages that the files name and that are missing; does nothing if all are there.
set -eu
cd "$(dirname "$0")/.."
if ! command -v apt-get >/dev/null; then
    echo "deps: no apt-get here; install what $* list in this system's own way" >&2
    exit 0
fi
list=$(cat "$@")
set --
while read -r package; do
    case $package in '#'* | '') continue ;; esac
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || set -- "$@" "$package"
done <<EOF
$list
EOF
[ $# -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "deps: these packages are missing; install them as root: $*" >&2
    exit 1
fi
echo "deps: installing $*"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get -q update && apt-get -q -y install --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    echo "deps: apt-get failed" >&2
    exit 1
fi
rm -f "$log"
