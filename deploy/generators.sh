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
        --kinds)
            kinds=$2
            for kind in $kinds; do
                case $kind in vae | gan | diffusion) ;; *) usage >&2; exit 2 ;; esac
            done
            shift 2
            ;;
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

# What lies there must be of the same settings: a half of one run and a half of another are no measurement.
asked="real $real count $count symmetry $symmetry vae $vae gan $gan diffusion $diffusion data $data"
if [ -f "$out/asked" ] && [ "$(cat "$out/asked")" != "$asked" ]; then
    echo "generators.sh: $out holds a run with other settings ($(cat "$out/asked")); give another --out" >&2
    exit 1
fi
echo "$asked" > "$out/asked"

if [ ! -d "$out/split" ]; then
    rm -rf "$out/split.part"
    "$train" split --data "$data" --real "$real" --out "$out/split.part" >&2
    mv "$out/split.part" "$out/split"
fi
real=$out/split/real
rest=$out/split/rest
sets=()
for kind in $kinds; do
    generator=$out/$kind.generator
    if [ ! -s "$generator" ] || [ -e "$generator.checkpoint" ]; then
        "$train" defects fit --kind "$kind" --data "$rest" --real "$real" --out "$generator" --steps "${!kind}" \
            --symmetry "$symmetry" --threads 1 --resume >&2
        [ ! -e "$generator.checkpoint" ] || { echo "generators.sh: stopped; the same command goes on" >&2; exit 130; }
    fi
    "$train" defects sample --generator "$generator" --data "$rest" --real "$real" --out "$out/$kind" --count "$count" \
        --resume >&2
    sets+=(--made "$kind=$out/$kind")
done
# The photographs that the generators learnt from, as a set of their own: a generator has to beat them.
if [ ! -d "$out/photographed" ]; then
    rm -rf "$out/photographed.part"
    mkdir -p "$out/photographed.part/test"
    for class in "$real"/*/; do
        class=$(basename "$class")
        [ "$class" = ground_truth ] || cp -al "$real/$class" "$out/photographed.part/test/"
    done
    cp -al "$real/ground_truth" "$out/photographed.part/"
    mv "$out/photographed.part" "$out/photographed"
fi
sets+=(--made "photographed=$out/photographed")
"$train" defects judge --data "$rest" "${sets[@]}" --trained-on "$real" --report "$out/report" --seeds "$seeds" \
    --symmetry "$symmetry"
