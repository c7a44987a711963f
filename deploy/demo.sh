#!/bin/bash
# The whole line on one machine, to look at. See --help.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
python_dir=/usr/local/lib/inspectd/python
stop_limit_s=10

usage() {
    cat <<'USAGE'
Usage: deploy/demo.sh [--seconds N] [--data DIR] [--model FILE]

Sets up what is missing, builds inspectd, starts it with two stations and a Mosquitto broker on
loopback, and shows part by part what a PLC reads over Modbus and what the broker carries, until
Ctrl-C. Ends with a summary. Leaves nothing behind.
  --seconds N    stop after N seconds
  --data DIR     frames from this folder of pictures, again and again, not from a simulated camera
  --model FILE   this model, not models/demo.onnx
USAGE
}

say() { printf 'demo: %s\n' "$*"; }
die() { printf 'demo: error: %s\n' "$*" >&2; exit 1; }

seconds=0 data='' model=$root/models/demo.onnx
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --seconds | --data | --model)
            [ $# -ge 2 ] || die "$1 needs a value"
            case $1 in
                --seconds) seconds=$2 ;;
                --data) data=$2 ;;
                --model) model=$2 ;;
            esac
            shift 2
            ;;
        *)
            usage >&2
            die "unknown argument: $1"
            ;;
    esac
done
[[ $seconds =~ ^[0-9]{1,9}$ ]] || die "--seconds: expected a whole number, got $seconds"
[ -z "$data" ] || [ -d "$data" ] || die "--data: no such folder: $data"
[ -f "$model" ] || die "--model: no such file: $model"

work='' broker='' daemon='' viewer=''

# Asks a process to end, waits, and only then makes it. Says what it ended with.
end_process() { # pid
    local pid=$1 waited=0 status=0
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$waited" -ge $((stop_limit_s * 10)) ]; then
            kill -KILL "$pid" 2>/dev/null || true
            break
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
    wait "$pid" || status=$?
    return "$status"
}

clean_up() {
    trap '' INT TERM
    [ -z "$viewer" ] || end_process "$viewer" || true
    [ -z "$daemon" ] || end_process "$daemon" || true
    [ -z "$broker" ] || end_process "$broker" || true
    [ -z "$work" ] || rm -rf "$work"
}

interrupted() {
    if [ -n "$viewer" ]; then
        signalled=yes
        kill -TERM "$viewer" 2>/dev/null || true # it ends with its summary, and we go on from there
    else
        exit 130
    fi
}
trap clean_up EXIT
trap interrupted INT TERM

"$here/setup.sh"
say "building inspectd"
cargo build --release --locked --manifest-path "$root/Cargo.toml" --bin inspectd
target=$(cargo metadata --format-version 1 --no-deps --offline --manifest-path "$root/Cargo.toml" |
    jq -r .target_directory)
inspectd=$target/release/inspectd
export PYTHONPATH=$python_dir PYTHONDONTWRITEBYTECODE=1

work=$(mktemp -d "${TMPDIR:-/tmp}/inspectd-demo.XXXXXX")
mkdir "$work/broker"
# Both are free when asked for; the system does not give them away again so soon.
read -r modbus_port mqtt_port < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))')

cat >"$work/mosquitto.conf" <<CONF
listener $mqtt_port 127.0.0.1
allow_anonymous true
persistence true
persistence_location $work/broker/
max_queued_messages 100000
log_dest file $work/broker.log
user $(id -un)
CONF
python3 "$here/demo.py" configure --template "$here/demo.toml" --modbus-port "$modbus_port" \
    --mqtt-port "$mqtt_port" --journal "$work/journal" --model "$(realpath "$model")" \
    ${data:+--data "$(realpath "$data")"} >"$work/demo.toml"
"$inspectd" check "$work/demo.toml" >/dev/null

# In sessions of their own: Ctrl-C is for the viewer, these two are ended in order afterwards.
PATH=$PATH:/usr/sbin setsid mosquitto -c "$work/mosquitto.conf" >"$work/broker.out" 2>&1 &
broker=$!
python3 "$here/demo.py" subscribe --config "$work/demo.toml"
setsid "$inspectd" run --config "$work/demo.toml" >"$work/inspectd.log" 2>&1 &
daemon=$!
python3 "$here/demo.py" watch --config "$work/demo.toml" --inspectd "$inspectd" \
    --daemon-pid "$daemon" --seconds "$seconds" &
viewer=$!

# A signal ends the wait, not the viewer.
signalled=yes
while [ "$signalled" = yes ]; do
    signalled=no seen=0
    wait "$viewer" || seen=$?
done
viewer=''

failed=''
[ "$seen" -eq 0 ] || failed="the viewer ended with exit code $seen"
kill -0 "$broker" 2>/dev/null || failed="the broker died"
kill -0 "$daemon" 2>/dev/null || failed="inspectd died"
status=0
end_process "$daemon" || status=$?
daemon=''
[ "$status" -eq 0 ] || failed="${failed:+$failed; }inspectd ended with exit code $status"
status=0
end_process "$broker" || status=$?
broker=''
if [ -n "$failed" ]; then
    tail -n 20 "$work/inspectd.log" "$work/broker.out" "$work/broker.log" >&2 || true
    die "$failed"
fi
