#!/bin/bash
# A million parts through one daemon, with faults all the time: does anything grow? See --help.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
python_dir=/usr/local/lib/inspectd/python
stop_limit_s=10

usage() {
    cat <<'USAGE'
Usage: deploy/soak.sh [--parts N] [--out DIR] [--seed N] [--model FILE]

Sets up what is missing, builds inspectd, and lets one process of it judge parts as fast as two cores steadily can: 14
stations by clock, two by PLC. Meanwhile, from outside, the broker dies or falls silent, connections break, strangers
come, frames are lost, a camera goes, the disk fills (as root), configurations and models are changed and broken, and
readers read. Memory, handles, threads, disk and the time from trigger to result are sampled, drawn and tested for
growth; every record is compared. Ctrl-C ends it with what it has. Leaves nothing behind but --out.
  --parts N      so many parts (default 1000000: half an hour on two cores)
  --out DIR      samples, faults, report and picture (default target/soak)
  --seed N       of the faults' order and of the parts (default 1)
  --model FILE   the model of three stations, not models/demo.onnx; the others have a light one
Exit codes: 0 flat and nothing wrong; 1 something grows or was wrong; 3 too short or too noisy to tell; 130 ended early.
deploy/manual/operation.md says how to read the picture.
USAGE
}

say() { printf 'soak: %s\n' "$*"; }
die() { printf 'soak: error: %s\n' "$*" >&2; exit 1; }

parts=1000000 out=$root/target/soak seed=1 model=$root/models/demo.onnx
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --parts | --out | --seed | --model)
            [ $# -ge 2 ] || die "$1 needs a value"
            case $1 in
                --parts) parts=$2 ;;
                --out) out=$2 ;;
                --seed) seed=$2 ;;
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
[[ $parts =~ ^[1-9][0-9]{0,8}$ ]] || die "--parts: expected a whole number from 1, got $parts"
[[ $seed =~ ^[0-9]{1,9}$ ]] || die "--seed: expected a whole number, got $seed"
[ -f "$model" ] || die "--model: no such file: $model"

work='' soak='' mounted=()

# Asks a process to end, waits, and only then makes it.
end_process() { # pid
    local pid=$1 waited=0
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$waited" -ge $((stop_limit_s * 10)) ]; then
            kill -KILL "$pid" 2>/dev/null || true
            break
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
}

clean_up() {
    trap '' INT TERM
    if [ -n "$soak" ]; then
        end_process "$soak"
        # It ends these itself, unless it was killed.
        local file
        for file in "$work"/*.pid; do
            [ ! -f "$file" ] || end_process "$(cat "$file")"
        done
    fi
    local folder
    for folder in "${mounted[@]}"; do
        umount "$folder" || say "cannot unmount $folder"
    done
    [ -z "$work" ] || rm -rf --one-file-system "$work"
}

interrupted() {
    [ -n "$soak" ] || exit 130
    signalled=yes
    kill -TERM "$soak" 2>/dev/null || true # it ends with its report, and we go on from there
}
trap clean_up EXIT
trap interrupted INT TERM

"$here/setup.sh"
say "building inspectd"
cargo build --release --locked --manifest-path "$root/Cargo.toml" -p inspectd --bin inspectd
target=$(cargo metadata --format-version 1 --no-deps --offline --manifest-path "$root/Cargo.toml" |
    jq -r .target_directory)
inspectd=$target/release/inspectd

mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d "${TMPDIR:-/tmp}/inspectd-soak.XXXXXX")
mkdir "$work/disk" "$work/run"
drawing=$work/python
export PYTHONPATH=$here/soak:$here:$root/tests/peers:$python_dir:$drawing PYTHONDONTWRITEBYTECODE=1
if ! python3 -c 'import matplotlib' 2>/dev/null; then
    say "matplotlib, for the picture: fetching"
    python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-warn-script-location \
        --root-user-action=ignore --require-hashes --only-binary=:all: --no-deps --target "$drawing" \
        --requirement "$here/soak/requirements.txt" || die "cannot install matplotlib (see above)"
fi
can_fill=()
if mount -t tmpfs -o size=300m tmpfs "$work/disk" 2>/dev/null; then
    mounted+=("$work/disk")
    can_fill=(--can-fill)
    if mount -t tmpfs -o size=64m tmpfs "$work/run" 2>/dev/null; then mounted+=("$work/run"); fi
else
    say "no file system can be mounted here (not root?): no full disk in this run"
fi

# In a session of its own: Ctrl-C comes once, from here.
setsid python3 "$here/soak/main.py" --inspectd "$inspectd" --model "$(realpath "$model")" --work "$work" --out "$out" \
    --parts "$parts" --seed "$seed" "${can_fill[@]}" &
soak=$!
# A signal ends the wait, not the soak.
signalled=yes
while [ "$signalled" = yes ]; do
    signalled=no status=0
    wait "$soak" || status=$?
done
soak=''
if [ -s "$out/samples.csv" ]; then
    python3 "$here/soak/plot.py" "$out" && say "the picture: $out/soak.png"
fi
say "samples, faults and report: $out"
exit "$status"
