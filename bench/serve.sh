#!/bin/sh
# Start Pillarbox in the foreground for the peer benchmark: serve.sh MODE DIR PORT SINK
# MODE is hold, discard, relay or maildir; DIR is an empty folder; SINK the port of smtp-sink in relay runs.
set -eu
mode=$1 dir=$2 port=$3 sink=${4:-0}
root=$(cd "$(dirname "$0")/.." && pwd)
case $mode in
    hold) route='match = "*"
via = "hold"' domain='' ;;
    discard) route='match = "*"
via = "discard"' domain='' ;;
    relay) route="match = \"*\"
via = \"smtp://127.0.0.1:$sink?tls=none\"" domain='' ;;
    maildir) route='match = "*"
via = "hold"' domain="[domain.\"dest.test\"]
deliver = \"maildir:$dir/box/{user}\"" ;;
    *) echo "serve.sh: unknown mode '$mode'; use hold, discard, relay or maildir" >&2; exit 64 ;;
esac
cat > "$dir/pillarbox.toml" <<TOML
hostname = "bench.test"
data = "$dir/data"
workers = ${PILLARBOX_WORKERS:-1}

[[listen]]
address = "127.0.0.1:$port"
role = "relay"

[limits]
messages = 1000000

[connections]
per_address = 10000

[[route]]
$route

$domain
TOML
# What is installed has its byte code beside it; in a checkout the first start writes it, if nothing forbids that.
unset PYTHONDONTWRITEBYTECODE
exec "$root/.venv/bin/pillarbox" serve --config "$dir/pillarbox.toml"
