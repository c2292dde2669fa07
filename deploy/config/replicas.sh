#!/usr/bin/env bash
# Starts the three datacenters of replicas.toml on this machine, within TLS, until it is interrupted. Then, in another terminal:
#
#   curl -X PUT --data hello http://127.4.1.1:7480/v1/kv/greeting
#   curl http://127.4.3.1:7480/v1/kv/greeting
#
# TRUNKLINE names the binary; it is built where it is not given. The CA is made once, certificates at every start. Where a node ends, all of it ends, with what that node said last.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -z "${TRUNKLINE:-}" ]; then
    cargo build --release --locked --quiet
    TRUNKLINE=${CARGO_TARGET_DIR:-target}/release/trunkline
fi
logs=target/replicas
mkdir -p "$logs"
file=deploy/config/replicas.toml
tls=$logs/tls
[ -e "$tls/ca.crt" ] || "$TRUNKLINE" ca init --cluster replicas --dir "$tls" > "$logs/ca.log"
"$TRUNKLINE" ca issue --dir "$tls" --config "$file" --all --replace >> "$logs/ca.log"
declare -A pids
trap 'trap - EXIT; kill "${pids[@]}" 2>/dev/null || true; wait' EXIT

start() { # COMMAND NODE
    # A log that another run writes is not cut off.
    "$TRUNKLINE" "$1" --config "$file" --node "$2" 2>> "$logs/$2.log" &
    pids[$2]=$!
}
fail() { # NODE WHY
    echo "$1 $2; the last line of $logs/$1.log: $(tail -n 1 "$logs/$1.log")" >&2
    exit 1
}
check() {
    for node in "${!pids[@]}"; do
        kill -0 "${pids[$node]}" 2>/dev/null || fail "$node" "does not run"
    done
}

for node in us-p eu-p ap-p; do start proxy "$node"; done
for node in us-1 eu-1 ap-1; do start node "$node"; done
deadline=$((SECONDS + 30))
for node in "${!pids[@]}"; do
    # What answers there is this node only as long as it runs.
    until check && "$TRUNKLINE" status --config "$file" --node "$node" --ready 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$node" "is not ready after 30 s"
        sleep 0.2
    done
done
# Who cannot have its address or directory may need a moment to say so.
sleep 1
check
echo "three replicas and three proxies are ready; their logs are in $logs"
while check; do sleep 1; done
