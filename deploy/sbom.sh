#!/bin/bash
# The daemon's bill of materials. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
cyclonedx_version=0.5.9

usage() {
    cat <<'USAGE'
Usage: deploy/sbom.sh [--inspectd FILE] [OUT]

Writes what is in the daemon to OUT (inspectd.cdx.json) as CycloneDX JSON: the crates that it is built from, by
cargo-cyclonedx (installed beside the tests' tools if it is not there), ONNX Runtime, and the Debian packages whose libraries
FILE (target/release/inspectd) loads, each with its version.
USAGE
}

die() {
    printf 'sbom: error: %s\n' "$*" >&2
    exit 1
}

program='' out=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --inspectd) program=${2:?--inspectd wants a file}; shift ;;
        -*) usage >&2; exit 2 ;;
        *) out=$1 ;;
    esac
    shift
done
out=$(realpath -m "${out:-inspectd.cdx.json}")
cd "$root"
target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
program=$(realpath -m "${program:-$target/release/inspectd}")
[ -x "$program" ] || die "$program is not there: cargo build --release, or name the program by --inspectd"

work=$(mktemp -d "${TMPDIR:-/tmp}/inspectd-sbom.XXXXXX")
trap 'rm -rf "$work"' EXIT

tools=$target/tools
"$tools/bin/cargo-cyclonedx" cyclonedx --version 2>/dev/null | grep -qF " $cyclonedx_version" ||
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install cargo-cyclonedx --version "$cyclonedx_version" --locked --debug --quiet --root "$tools"
# It writes beside each manifest of the workspace: a copy of the manifests keeps the source tree clean.
git ls-files -z -- '*.toml' '*.lock' '*.rs' | xargs -0 cp --parents -t "$work"
(cd "$work" && "$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps \
    --override-filename crates --manifest-path Cargo.toml)

# Libraries to packages: a library may be named by a link, a package owns the file behind it or the link itself.
libraries=$(ldd "$program" | awk '$3 ~ "^/" { print $3 }')
packages=$(for library in $libraries; do
    dpkg -S "$library" 2>/dev/null || dpkg -S "$(realpath "$library")" 2>/dev/null ||
        dpkg -S "/usr$library" 2>/dev/null || printf 'sbom: warning: %s belongs to no package\n' "$library" >&2
done | cut -d: -f1 | sort -u)
# shellcheck disable=SC2016,SC2086 # dpkg's own variables; a word for each package
dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\n' $packages >"$work/packages"
runtime=/usr/local/lib/inspectd/.onnxruntime
if [ -f "$runtime" ]; then
    awk '{ printf "%s\t%s\t%s\n", $1, $2, $3 }' "$runtime" >"$work/runtime"
else
    printf 'sbom: warning: no ONNX Runtime of deploy/setup.sh is here: left out\n' >&2
    : >"$work/runtime"
fi

jq --arg work "$work" --rawfile packages "$work/packages" --rawfile runtime "$work/runtime" '
    def rows($text): $text | split("\n") | map(select(. != "") | split("\t"));
    def library($name; $version; $purl):
        { type: "library", "bom-ref": $purl, name: $name, version: $version, purl: $purl };
    (rows($packages) | map(library(.[0]; .[1]; "pkg:deb/debian/\(.[0])@\(.[1] | @uri)?arch=\(.[2])"))) as $debian
    | (rows($runtime) | map(library("onnxruntime"; .[1]; "pkg:pypi/onnxruntime@\(.[1])")
        + { hashes: [{ alg: "SHA-256", content: .[2] }] })) as $ort
    # The folder of the copy says nothing.
    | walk(if type == "string" then split("path+file://" + $work) | join("path+file://.") else . end)
    | .components += $debian + $ort
    # What the program loads, the program depends on.
    | .metadata.component["bom-ref"] as $own
    | (.dependencies[] | select(.ref == $own) | .dependsOn) += ($debian + $ort | map(.["bom-ref"]))
' "$work/crates.json" >"$work/out.json"
mv "$work/out.json" "$out"
jq -r --arg out "$out" '"\($out): \(.components | length) components, \([.components[] | select(.purl // "" | startswith("pkg:deb"))] | length) of them Debian packages"' "$out"
