#!/bin/sh
# Create .venv from the lock, or do nothing when it is up to date. POSIX sh, because Python may be the missing part.
# Every way to fail says one sentence and leaves nothing that the next call would trust.
set -u
cd "$(dirname "$0")/.." || exit 1
venv=.venv
stamp=$venv/ready
log=$venv/install.log

fail() {
    echo "$1" >&2
    exit 1
}

# The lock, what asks for it, and the place: the installed package points back to this directory.
key=$( { cat requirements.txt requirements.lock; pwd; } | cksum)
[ "$(cat $stamp 2>/dev/null)" = "$key" ] && $venv/bin/python -c '' 2>/dev/null && exit 0

python=
for candidate in ${PYTHON:-} python3 python python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "This course needs Python 3.11, 3.12 or 3.13, and none was found: install one, or name it with 'make lab PYTHON=/path/to/python3'."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "This Python has no venv module: install it (on Debian and Ubuntu 'apt install python3-venv') and run the command again."

gpu=
if [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; then gpu=yes; fi

need=4 # GB, with what is unpacked on the way: measured 2.3 installed, and 6.0 with CUDA
[ "$(uname -s)" = Linux ] && [ -n "$gpu" ] && need=12
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1000000) }')
[ "${free:-$need}" -ge "$need" ] ||
    fail "The installation needs about $need GB of free disk space here, and there are $free: free some and run the command again."

# Where there is no NVIDIA GPU, the CPU build of torch spares a stranger gigabytes of CUDA: ask PyTorch's own index
# for it when it answers within three seconds. The constraints fix the version either way.
index=
if [ "$(uname -s)" = Linux ] && [ -z "$gpu" ]; then
    cpu_index=https://download.pytorch.org/whl/cpu
    "$python" -c "
import signal, sys, urllib.request
signal.alarm(3)
urllib.request.urlopen(sys.argv[1] + '/torch/', timeout=3)" $cpu_index >/dev/null 2>&1 && index="--extra-index-url $cpu_index"
fi 2>/dev/null

# Without a stamp an earlier call did not finish: start over. With one, only the lock has changed: install on top.
if [ -f $stamp ] && $venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -f $stamp
else
    "$python" -m venv --clear $venv >/dev/null 2>&1 || {
        rm -rf $venv
        fail "The virtual environment $venv could not be created: look at '$python -m venv $venv'."
    }
fi

echo "Installing into $venv from requirements.lock (2 GB on disk, 6 with CUDA; once, some minutes) ..."
# Large downloads are shown, everything else goes to the log; the exit status travels in a file, for the pipe eats it.
rm -f $venv/installed
{
    $venv/bin/python -m pip install --disable-pip-version-check $index -r requirements.txt 2>&1 && : >$venv/installed
} | tee $log | awk '/^ *Downloading .* MB\)/ { sub(/^ */, ""); print; fflush() }'
if [ ! -f $venv/installed ]; then
    if grep -qiE 'no space left|disk quota' $log; then
        fail "The disk filled up while installing (about $need GB are needed): free some space and run the command again."
    elif grep -qiE 'NewConnectionError|failed to establish|name resolution|getaddrinfo|network is unreachable|connection (refused|reset|broken|aborted)|timed out|ProxyError|RemoteDisconnected|found for flit_core' $log; then
        fail "The package index could not be reached: the first installation needs a network, so check the connection and run the command again."
    elif grep -q 'No matching distribution found for torch' $log; then
        fail "PyTorch has no build for this machine: it needs 64-bit Linux, Windows, or macOS 14 on Apple silicon."
    fi
    fail "The installation failed; the reason stands at the end of $log."
fi
echo "$key" >$stamp
