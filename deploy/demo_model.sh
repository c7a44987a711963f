#!/bin/bash
# Fits models/demo.onnx anew: simulated parts are captured, the model is fitted on the good ones, and judged
# on others. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$here/models/demo.onnx
minutes=8

usage() {
    cat <<USAGE
Usage: deploy/demo_model.sh [--minutes N] [--out FILE]

Captures 800 good simulated parts through the demo's camera, fits the demo model on them (N minutes,
default $minutes, seed 1, false-reject budget 1 %), and evaluates it on 300 good and 300 defective parts
that were rendered from another seed. Writes models/demo.onnx unless --out names another file.
USAGE
}

while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --help | -h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

cd "$here"
deploy/setup.sh --trainer
cargo build --release --locked --package inspectd --package inspect-train
bin=${CARGO_TARGET_DIR:-target}/release
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

"$bin/inspectd" capture --config deploy/demo.toml --seed 101 --count 800 --out "$parts/train/good"
"$bin/inspectd" capture --config deploy/demo.toml --seed 102 --count 300 --defects 300 --out "$parts/test-split"
mv "$parts/test-split/test" "$parts/test"
"$bin/inspect-train" fit --data "$parts" --out "$parts/demo.onnx" --name demo --variant xs --size 128 --seed 1 \
    --alpha 0.01 --minutes "$minutes"
"$bin/inspect-train" evaluate --model "$parts/demo.onnx" --data "$parts"
mv "$parts/demo.onnx" "$out"
