#!/usr/bin/env bash
# Write a new entity: domain, routes, test and migration. For example: new.sh booking starts_at:Instant 'status:open|closed'
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install.sh requirements-dev.lock
exec .venv/bin/python -m scripts.new "$@"
