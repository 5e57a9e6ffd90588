#!/usr/bin/env bash
# Create .venv if it is missing, and install a lock file into it if it has changed: install.sh requirements.lock
set -euo pipefail
cd "$(dirname "$0")/.."

lock=$1
stamp=.venv/$lock.installed
cmp --silent "$lock" "$stamp" && exit

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is required; set PYTHON=/path/to/python3" >&2
    exit 1
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "Installing $lock"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$lock"
cp "$lock" "$stamp"
