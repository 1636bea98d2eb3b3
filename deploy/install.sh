#!/bin/sh
# Install the packages of a lock, and torch before them. pip compares every file with its SHA-256.  deploy/install.sh PYTHON LOCK
set -eu
python=$1
lock=$2
locks=$(dirname "$0")/locks
install() {
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation -r "$locks/$1.txt"
}
# The build of torch that this machine would get without a lock: for CPUs where its index has that, else the package index's.
torch=$(grep -o '^torch==[0-9.]*' "$locks/torch.txt")
build=$("$python" -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps --report - "$torch" |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])')
install build
case $build in
*+cpu) install torch-cpu ;;
*) install torch ;;
esac
if "$python" -c 'import importlib.metadata, sys; sys.exit(not any("cuda" in each for each in importlib.metadata.requires("torch")))'; then
    install cuda # this build of torch is the one for GPUs
fi
install "$lock"
