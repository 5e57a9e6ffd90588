#!/usr/bin/env bash
# Measure the service beside its limits and peers, and write docs/performance.md. --quick takes a minute; see --help.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements-dev.lock
exec .venv/bin/python -m tests.bench "$@"
