#!/usr/bin/env bash
# Starts the three datacenters of replicas.toml on this machine, until it is interrupted. Then, in another terminal:
#
#   curl -X PUT --data hello http://127.4.1.1:7480/v1/kv/greeting
#   curl http://127.4.3.1:7480/v1/kv/greeting
#
# TRUNKLINE names the binary; it is built where it is not given.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${TRUNKLINE:-}" ]; then
    cargo build --release --locked --quiet
    TRUNKLINE=${CARGO_TARGET_DIR:-target}/release/trunkline
fi
mkdir -p target/replicas
file=deploy/config/replicas.toml
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
for node in us-p eu-p ap-p; do
    "$TRUNKLINE" proxy --config "$file" --node "$node" 2> "target/replicas/$node.log" &
done
for node in us-1 eu-1 ap-1; do
    "$TRUNKLINE" node --config "$file" --node "$node" 2> "target/replicas/$node.log" &
done
echo "three replicas and three proxies run; their logs are in target/replicas"
wait
