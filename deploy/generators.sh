#!/bin/bash
# Whether generators of defects help on a set: splits it, fits the kinds, samples, judges. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=
real=10
count=120
seeds=3
symmetry=none
kinds="vae gan diffusion"
vae=700
gan=1200
diffusion=2000

usage() {
    cat <<USAGE
Usage: deploy/generators.sh [--out DIR] [--real N] [--count N] [--seeds N] [--symmetry none|flip|rotate]
                            [--kinds "vae gan"] [--steps KIND=N] DATA

Takes --real defects of each class ($real) out of the test split of DATA (MVTec AD layout with masks), fits each kind of
generator on them and on procedural defects (one thread; steps: vae $vae, gan $gan, diffusion $diffusion), makes --count ($count)
defects with each, and judges these sets and the photographed defects themselves against procedural defects alone, on
the defects that are left ($seeds seeds). Prints the judge's table. In --out (default target/generators/NAME): the
generators, their pictures with sheet.png, report/judge.html. What lies there is not done again.
Needs deploy/setup.sh --trainer.
USAGE
}

while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --real) real=$2; shift 2 ;;
        --count) count=$2; shift 2 ;;
        --seeds) seeds=$2; shift 2 ;;
        --symmetry) symmetry=$2; shift 2 ;;
        --kinds) kinds=$2; shift 2 ;;
        --steps)
            case $2 in
                vae=* | gan=* | diffusion=*) declare "${2%%=*}=${2#*=}" ;;
                *) usage >&2; exit 2 ;;
            esac
            shift 2
            ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; exit 2 ;;
        *) data=$(realpath "$1"); shift ;;
    esac
done
[ -d "${data:-}/test" ] || { echo "generators.sh: ${data:-DATA} has no folder test; give a set in MVTec AD layout" >&2; exit 1; }
out=$(realpath -m "${out:-$root/target/generators/$(basename "$data")}")
cd "$root"
cargo build --release --locked -p inspect-train
train=${CARGO_TARGET_DIR:-$root/target}/release/inspect-train
mkdir -p "$out"

[ -d "$out/split" ] || "$train" split --data "$data" --real "$real" --out "$out/split" >&2
real=$out/split/real
rest=$out/split/rest
sets=()
for kind in $kinds; do
    generator=$out/$kind.generator
    if [ ! -s "$generator" ]; then
        "$train" defects fit --kind "$kind" --data "$rest" --real "$real" --out "$generator" --steps "${!kind}" \
            --symmetry "$symmetry" --threads 1 --resume >&2
    fi
    if [ ! -s "$out/$kind/sheet.png" ]; then
        rm -rf "${out:?}/$kind"
        "$train" defects sample --generator "$generator" --data "$rest" --real "$real" --out "$out/$kind" --count "$count" >&2
    fi
    sets+=(--made "$kind=$out/$kind")
done
# The photographs that the generators learnt from, as a set of their own: a generator has to beat them.
if [ ! -d "$out/photographed" ]; then
    mkdir -p "$out/photographed.part/test"
    cp -al "$real"/* "$out/photographed.part/test/"
    rm -rf "$out/photographed.part/test/"{ground_truth,manifest.csv,boxes.csv}
    cp -al "$real/ground_truth" "$out/photographed.part/"
    mv "$out/photographed.part" "$out/photographed"
fi
sets+=(--made "photographed=$out/photographed")
"$train" defects judge --data "$rest" "${sets[@]}" --trained-on "$real" --report "$out/report" --seeds "$seeds" \
    --symmetry "$symmetry"
