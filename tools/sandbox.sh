#!/bin/sh
# Grading runs submissions in bubblewrap. Install Debian's where it is missing and that is possible; never fail.
set -u
command -v bwrap >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing bubblewrap for grading ..."
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -qy --no-install-recommends bubblewrap; } >/dev/null 2>&1 && exit 0
fi
echo "No bubblewrap here, so the tests of grading will be skipped (and fail where CI=true)." >&2
