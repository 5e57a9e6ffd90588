#!/usr/bin/env bash
# Run the service on http://127.0.0.1:8000 (set HOST and PORT to change it): install, migrate, serve.
set -euo pipefail
cd "$(dirname "$0")/.."

host=${HOST:-127.0.0.1}
port=${PORT:-8000}

is_open() { (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; }

if is_open; then
    echo "Port $port is in use. Choose another one: PORT=$((port + 1)) scripts/start.sh" >&2
    exit 1
fi

scripts/install.sh requirements.lock
scripts/prestart.sh

# Print the URL when the port is open, unless the server has exited: exec keeps the process id.
(
    until is_open; do
        kill -0 $$ 2>/dev/null || exit 0
        sleep 0.2
    done
    echo "Try it out: http://$host:$port/docs (Ctrl-C stops it)"
) &

exec .venv/bin/python -m uvicorn app.main:app --http app.api.server:Protocol --no-proxy-headers --no-server-header \
    --host "$host" --port "$port" "$@"
