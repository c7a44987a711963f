#!/bin/sh
# The accuracy table of README: fits six sets of real pictures one after another with the same settings,
# judges each on its test split, and prints a markdown table. What is done already is not done again.
#
#   deploy/floor.sh [--minutes N] [--out DIR] [DATA]
#
# DATA: folder with the sets (MVTec AD layout), default ../shared/data beside this repository.
# --minutes: budget of each fit, default 10. --out: where models and figures go, default
# target/floor-N-minutes; what lies there of another version of the code is taken as it is, so clear it.
# Needs deploy/setup.sh --trainer.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
minutes=10
out=
data=$root/../shared/data
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=${2:?--minutes needs a number}; shift 2 ;;
        --out) out=${2:?--out needs a folder}; shift 2 ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "floor.sh: unknown option $1 (try --help)" >&2; exit 2 ;;
        *) data=$1; shift ;;
    esac
done
out=${out:-$root/target/floor-$minutes-minutes}
if [ ! -d "$data" ]; then
    echo "floor.sh: $data is not a folder; give the folder that holds bottle, casting, ..." >&2
    exit 1
fi
mkdir -p "$out"
cd "$root"
cargo build --release --locked -p inspect-train
train=${CARGO_TARGET_DIR:-$root/target}/release/inspect-train

# The one thing that a user knows of the part: whether it may lie turned.
symmetry() {
    case $1 in
        casting | paper_bft | paper_btn) echo rotate ;;
        magnetic_tile) echo flip ;;
        *) echo none ;;
    esac
}

field() { sed -n "s/^  \"$2\": \([^,]*\),\{0,1\}\$/\1/p" "$out/$1.json" | head -n 1; }

sets="bottle casting moulded_figure paper_bft paper_btn magnetic_tile"
for set in $sets; do
    if [ ! -s "$out/$set.json" ]; then
        "$train" fit --data "$data/$set" --out "$out/$set.onnx" --minutes "$minutes" \
            --symmetry "$(symmetry "$set")" >&2
        "$train" evaluate --model "$out/$set.onnx" --data "$data/$set" --floor \
            --json "$out/$set.json.part" >&2
        mv "$out/$set.json.part" "$out/$set.json"
    fi
done

echo "| set | symmetry | test good / defective | AUROC | linear floor | average precision | false rejects | escapes |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
for set in $sets; do
    printf '| %s | %s | %s / %s | %.3f | %.3f | %.3f | %s | %s |\n' "$set" "$(symmetry "$set")" \
        "$(field "$set" good)" "$(field "$set" defective)" "$(field "$set" auroc)" \
        "$(field "$set" floor_auroc)" "$(field "$set" average_precision)" \
        "$(field "$set" false_rejects)" "$(field "$set" escapes)"
done
