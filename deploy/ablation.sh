#!/bin/bash
# What each part of the model is worth: residual, head and both from one fit, and fits without families of
# made defects. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=$root/../shared/data
out=$root/target/ablation
budget=(--minutes 3)
sets="bottle casting"
families="stain scratch crack pit dent spot smear missing extra misplaced paste blend"

usage() {
    cat <<USAGE
Usage: deploy/ablation.sh [--minutes N | --steps N] [--sets "A B"] [--families "F G,H"] [--out DIR] [DATA]

Fits each set with seed 0 on one thread ($(echo "${budget[@]}") a fit), judges the fused score, the head's and the
residual's of the same weights on the test split, then fits again without each family of made defects (names
joined by a comma are left out together), and prints a markdown table of image AUROC. DATA: folder with the
sets, default ../shared/data beside the repository. What lies in --out (default target/ablation) is not done
again. Needs deploy/setup.sh --trainer.
USAGE
}

while [ $# -gt 0 ]; do
    case $1 in
        --minutes | --steps) budget=("$1" "${2:?$1 needs a number}"); shift 2 ;;
        --sets) sets=$2; shift 2 ;;
        --families) families=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) data=$1; shift ;;
    esac
done
[ -d "$data" ] || { echo "ablation.sh: $data is not a folder; give the folder that holds $sets" >&2; exit 1; }
cd "$root"
cargo build --release --locked -p inspect-train
train=${CARGO_TARGET_DIR:-$root/target}/release/inspect-train
mkdir -p "$out"

# auroc NAME SET fit-options...: fits unless it is there, prints the image AUROC.
auroc() {
    local name=$1 set=$2 said=()
    shift 2
    case $set in
        casting | paper_*) said=(--symmetry rotate) ;;
        magnetic_tile) said=(--symmetry flip --normalise exposure) ;;
    esac
    if [ ! -s "$out/$name.json" ]; then
        "$train" fit --data "$data/$set" --out "$out/$name.onnx" --threads 1 --resume "${budget[@]}" "${said[@]}" "$@" >&2
        "$train" evaluate --model "$out/$name.onnx" --data "$data/$set" --json "$out/$name.part" >&2
        mv "$out/$name.part" "$out/$name.json"
    fi
    python3 -c 'import json, sys; print("%.3f" % json.load(open(sys.argv[1]))["auroc"])' "$out/$name.json"
}

echo "| set | fused | head | residual | without |"
echo "| --- | --- | --- | --- | --- |"
for set in $sets; do
    whole=$out/$set-whole.onnx
    fused=$(auroc "$set-whole" "$set" --keep-checkpoint)
    parts=()
    for score in head residual; do
        [ -s "$out/$set-$score.json" ] || cp "$whole.checkpoint" "$out/$set-$score.onnx.checkpoint"
        parts+=("$(auroc "$set-$score" "$set" --score "$score")")
    done
    without=()
    for family in $families; do
        without+=("$family $(auroc "$set-without-$family" "$set" --without "$family")")
    done
    printf -v list '%s; ' "${without[@]}"
    echo "| $set | $fused | ${parts[0]} | ${parts[1]} | ${list%; } |"
done
