#!/bin/sh
# The accuracy table: fits every set of real pictures with three seeds, judges each model on the test split,
# prints a markdown table. Stopped half-way it goes on where it was. Needs deploy/setup.sh --trainer.
#
#   deploy/table.sh [--data DIR] [--out DIR] [--sets a,b] [--seeds 0,1,2] [--minutes N] [--jobs N] [--render]
#
# deploy/table.sh --help tells more.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case " $* " in
    *" --render "* | *" --help "* | *" -h "*) ;;
    *) (cd "$root" && cargo build --release --locked -p inspect-train) ;;
esac
exec python3 "$root/deploy/table.py" --train "$target/release/inspect-train" "$@"
