#!/bin/bash
# Sets up what is missing and runs every test. See --help.
set -uo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
python_dir=/usr/local/lib/inspectd/python
deny_version=0.20.2

usage() {
    cat <<'USAGE'
Usage: deploy/test.sh

Sets up what is missing (deploy/setup.sh --trainer) and runs everything: formatting, clippy, the
dependency guard, the tests of all crates, the example configurations, the tests against real peers,
and cargo-deny (which is installed if it is not there). Goes on after a failure, names all of them at
the end, and ends with the line `N passed, N failed`.
USAGE
}

case ${1:-} in
    '') ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        printf 'test: error: unknown argument: %s\n' "$1" >&2
        exit 2
        ;;
esac

cd "$root" || exit 1
# The whole of what can be run shorter while one works on it.
export LINE_PARTS=${LINE_PARTS:-1000000} GIGE_FRAMES=${GIGE_FRAMES:-10000}
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0 PYTHONPATH=$python_dir PYTHONDONTWRITEBYTECODE=1
passed=0 failed=0 failures=()
log=$(mktemp "${TMPDIR:-/tmp}/inspectd-test-log.XXXXXX")
trap 'rm -f "$log"' EXIT
# Without these, bash would go on with the next step.
trap 'exit 130' INT
trap 'exit 143' TERM

# One step. It counts as one test, or as all those that its runner says it ran.
step() { # name command...
    local name=$1 began=$SECONDS status ran=0 broken=0
    shift
    printf '\n=== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    # cargo: "test result: ok. 12 passed; 0 failed; …"; tests/peers: "12 passed, 0 failed"
    read -r ran broken < <(sed -nE 's/^(test result: [^0-9]*)?([0-9]+) passed[;,] ([0-9]+) failed.*/\2 \3/p' "$log" |
        awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }')
    if [ "$status" -ne 0 ] && [ "$broken" -eq 0 ]; then
        broken=1 # it did not come as far as its tests
    elif [ "$status" -eq 0 ] && [ "$ran" -eq 0 ]; then
        ran=1 # it is one check
    fi
    passed=$((passed + ran)) failed=$((failed + broken))
    if [ "$status" -ne 0 ]; then
        failures+=("$name")
        printf '=== %s: FAILED with exit code %s, %s s\n' "$name" "$status" $((SECONDS - began))
    else
        printf '=== %s: good, %s s\n' "$name" $((SECONDS - began))
    fi
}

# The daemon never links the training framework.
no_training_framework() {
    local tree found
    tree=$(cargo tree --locked -p inspectd -p inspect-core -e normal,build --prefix none) || return 1
    found=$(grep -E '^(tch|torch-sys|inspect-train) ' <<<"$tree" | sort -u)
    [ -z "$found" ] || { printf 'inspectd depends on the training framework:\n%s\n' "$found"; return 1; }
    printf 'no training framework among %s crates\n' "$(sort -u <<<"$tree" | wc -l)"
}

# Unoptimised it compiles in a minute, and its work takes two seconds all the same. It stands beside the
# tests' other products, so that the user's own is left alone.
deny() {
    local tools=$target/tools
    [ "$("$tools/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $deny_version" ] ||
        env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install cargo-deny --version "$deny_version" --locked --debug --quiet --root "$tools" || return 1
    # Advisories are looked up elsewhere: their database is not in a package registry.
    "$tools/bin/cargo-deny" --log-level error check licenses bans sources
}

inspectd() {
    cargo build --locked --quiet --bin inspectd || return 1
    "$target/debug/inspectd" "$@"
}

peers() {
    cargo build --locked --quiet --bin inspectd || return 1
    python3 tests/peers/run.py --inspectd "$target/debug/inspectd"
}

# 0 is shut, 10 is open. Of the settings alone: nothing is started.
exposure() {
    command -v systemd-analyze >/dev/null || { printf 'skipped: there is no systemd-analyze here\n'; return; }
    local said status
    said=$(systemd-analyze security --offline=true --no-pager --threshold=20 systemd/inspectd.service 2>&1)
    status=$?
    tail -n 1 <<<"$said"
    return "$status"
}

step "set-up" "$here/setup.sh" --trainer
target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
step "formatting" cargo fmt --all --check
step "no training framework in the daemon" no_training_framework
step "tests of the daemon" cargo test --locked --no-fail-fast
step "example configurations" inspectd check deploy/
step "tests against real peers" peers
step "exposure of the unit, 2.0 at most" exposure
step "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
step "tests of the trainer" cargo test --locked --no-fail-fast -p inspect-train
step "licences, bans and sources of dependencies" deny

printf '\n'
for name in ${failures[@]+"${failures[@]}"}; do
    printf 'FAILED: %s\n' "$name"
done
printf 'took %s s\n' "$SECONDS"
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] && [ "${#failures[@]}" -eq 0 ]
