#!/bin/bash
# Puts on this machine what inspectd, inspect-train and their tests need. See --help.
set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# What is installed, and the SHA-256 of the wheels it comes out of.
ort_version=1.31.1
ort_sha256_x86_64=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f
ort_sha256_aarch64=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3
# The crate torch-sys 0.24 takes exactly this release.
torch_version=2.11.0
torch_sha256=7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
cudart_version=13.0.96
cudart_sha256=7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
cupti_version=13.0.85
cupti_sha256=4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8

ort_dir=/usr/local/lib/inspectd
python_dir=$ort_dir/python
torch_dir=/usr/local/lib/inspect-train/libtorch

packages=(
    # build: the opencv crate generates its bindings from the installed headers
    g++ make pkg-config clang libclang-dev libopencv-dev
    # build: GigE Vision and USB3 Vision cameras (pkg-config asks for libusb, too)
    libaravis-dev libusb-1.0-0-dev
    # run: what GStreamer pipelines of cameras are made of
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good
    # tests and demo: MQTT broker and client, Modbus client, small tools
    mosquitto mosquitto-clients mbpoll jq
    # tests: fake GigE Vision camera, RTSP server
    aravis-tools python3-gi gir1.2-gst-rtsp-server-1.0
    # tests: a network that loses packets
    iproute2 nftables
    # tests: certificates; the unit's exposure
    openssl systemd
)

usage() {
    cat <<USAGE
Usage: deploy/setup.sh [--trainer]

Installs, for Debian 12 (needs root or sudo, Python with pip, and the package registries):
  - system packages: ${packages[*]}
  - ONNX Runtime $ort_version     $ort_dir/libonnxruntime.so
  - Python for the tests     $python_dir (put it into PYTHONPATH)
  --trainer adds
  - libtorch $torch_version, CPU     $torch_dir (x86_64 only; downloads 530 MB, keeps 530 MB)

Every download is pinned by version and SHA-256. What is there already is left alone: a second
run takes a moment and needs no network.
USAGE
}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "not root, and there is no sudo; run this as root"
    fi
}

# A component is complete when its stamp, written last, names exactly what we would install
# and none of its files has gone since.
is_current() { # stamp-file wanted-content file...
    local stamp=$1 wanted=$2 file
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] || return 1
    shift 2
    for file in "$@"; do
        [ -s "$file" ] || return 1
    done
}

work=
cleanup() { [ -z "$work" ] || rm -rf "$work"; }
trap cleanup EXIT

# /var/tmp: /tmp is often memory, and the trainer's wheel and its contents take 1.2 GB. pip
# gets the same folder, so that nothing of a broken run stays behind.
need_work() {
    if [ -z "$work" ]; then
        work=$(mktemp -d "${TMPDIR:-/var/tmp}/inspectd-setup.XXXXXX")
        export TMPDIR=$work
    fi
}

# The wheel is chosen by tags of our own, not by the Python that happens to run: the libraries
# inside do not care, and only then can the hash be pinned.
fetch_wheel() { # name version sha256 arch
    need_work
    printf '%s==%s --hash=sha256:%s\n' "$1" "$2" "$3" >"$work/pin.txt"
    mkdir -p "$work/wheels"
    python3 -m pip download --quiet --no-deps --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary=:all: --implementation cp --python-version 3.11 \
        --abi cp311 --abi none --platform "manylinux_2_28_$4" --platform "manylinux_2_25_$4" \
        --platform "manylinux2014_$4" --dest "$work/wheels" --requirement "$work/pin.txt" ||
        die "cannot fetch $1 $2 (see above): no such wheel, another hash, or no Python package registry"
}

# Replaces a folder in two renames: a run that is cut off leaves the old one or the new one.
put_folder() { # staged-folder destination
    chmod -R u=rwX,go=rX "$1"
    as_root mkdir -p "$(dirname "$2")"
    as_root rm -rf "$2.new" "$2.old"
    as_root cp -r --no-preserve=ownership "$1" "$2.new"
    if [ -e "$2" ]; then as_root mv "$2" "$2.old"; fi
    as_root mv "$2.new" "$2"
    as_root rm -rf "$2.old"
}

install_packages() {
    local names=("${packages[@]}") missing=() package had_mosquitto=yes
    python3 -m pip --version >/dev/null 2>&1 || names+=(python3-pip)
    for package in "${names[@]}"; do
        # dpkg-query reads a local file; apt would want its lists.
        if ! dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
            missing+=("$package")
            [ "$package" != mosquitto ] || had_mosquitto=no
        fi
    done
    if [ "${#missing[@]}" -eq 0 ]; then
        say "system packages: there"
        return
    fi
    say "system packages: installing ${missing[*]}"
    as_root apt-get -qq update || die "apt-get update failed; are Debian's packages reachable?"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null ||
        die "apt-get install failed"
    # Debian starts a broker with the package. Tests and demo bring up their own, on a free
    # port; one that was here before us is somebody's and stays as it is.
    if [ "$had_mosquitto" = no ]; then
        as_root systemctl --quiet disable mosquitto.service 2>/dev/null || true
        as_root service mosquitto stop >/dev/null 2>&1 || true
    fi
}

install_onnxruntime() {
    local arch sha real=libonnxruntime.so.$ort_version
    arch=$(uname -m)
    case $arch in
        x86_64) sha=$ort_sha256_x86_64 ;;
        aarch64) sha=$ort_sha256_aarch64 ;;
        *) die "no ONNX Runtime is pinned for $arch (only x86_64 and aarch64): build $ort_version" \
            "yourself, put it at $ort_dir/libonnxruntime.so and add it to this script" ;;
    esac
    local wanted="onnxruntime $ort_version $sha"
    if is_current "$ort_dir/.onnxruntime" "$wanted" "$ort_dir/libonnxruntime.so" \
        "$ort_dir/libonnxruntime.so.1" "$ort_dir/libonnxruntime_providers_shared.so"; then
        say "ONNX Runtime $ort_version: there"
        return
    fi
    say "ONNX Runtime $ort_version: fetching"
    fetch_wheel onnxruntime "$ort_version" "$sha" "$arch"
    local stage=$work/onnxruntime file
    unzip -q -j "$work"/wheels/onnxruntime-*.whl "onnxruntime/capi/$real" \
        onnxruntime/capi/libonnxruntime_providers_shared.so \
        onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt -d "$stage"
    # A library that this machine cannot load (an old glibc) is better found now than by the
    # daemon.
    python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1]).OrtGetApiBase' "$stage/$real" ||
        die "this machine cannot load $real"
    as_root install -d "$ort_dir" "$ort_dir/licenses/onnxruntime"
    as_root install -m 644 "$stage/LICENSE" "$stage/ThirdPartyNotices.txt" "$ort_dir/licenses/onnxruntime"
    for file in "$real" libonnxruntime_providers_shared.so; do
        # By rename: a daemon that runs keeps the library it has mapped.
        as_root install -m 755 "$stage/$file" "$ort_dir/$file.new"
        as_root mv -f "$ort_dir/$file.new" "$ort_dir/$file"
    done
    # libonnxruntime.so.1 is the soname: what provider libraries ask for.
    as_root ln -sfn "$real" "$ort_dir/libonnxruntime.so.1"
    as_root ln -sfn "$real" "$ort_dir/libonnxruntime.so"
    printf '%s\n' "$wanted" | as_root tee "$ort_dir/.onnxruntime" >/dev/null
}

install_python() {
    local wanted stamp=$python_dir/.installed
    # The folder holds machine code for one Python version.
    wanted="$(python3 -c 'import sys; print(sys.implementation.cache_tag)') $(sha256sum <"$here/requirements.txt")"
    if is_current "$stamp" "$wanted"; then
        say "Python for the tests: there"
        return
    fi
    say "Python for the tests: fetching"
    need_work
    # Into a folder of its own: Debian's Python refuses to have its own site changed (PEP 668).
    python3 -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-warn-script-location \
        --root-user-action=ignore --require-hashes --only-binary=:all: --no-deps \
        --target "$work/python" --requirement "$here/requirements.txt" ||
        die "cannot install the Python packages (see above): they need Python 3.11 to 3.13 and the" \
            "Python package registry"
    PYTHONPATH=$work/python python3 -c 'import jsonschema, numpy, paho.mqtt.client, pymodbus' ||
        die "the Python packages do not load"
    printf '%s\n' "$wanted" >"$work/python/.installed"
    put_folder "$work/python" "$python_dir"
}

install_libtorch() {
    local arch
    arch=$(uname -m)
    [ "$arch" = x86_64 ] ||
        die "--trainer: this set of libtorch's files was tried on x86_64 only, not on $arch;" \
            "the daemon needs none of it"
    local wanted="torch $torch_version $torch_sha256 cudart $cudart_sha256 cupti $cupti_sha256"
    local libs=(libtorch_cpu.so libc10.so libgomp.so.1)
    if is_current "$torch_dir/.installed" "$wanted" "${libs[@]/#/$torch_dir/lib/}" \
        "$torch_dir/lib/libtorch.so" "$torch_dir/lib/libcudart.so.13" "$torch_dir/lib/libcupti.so.13" \
        "$torch_dir/include/torch/csrc/api/include/torch/torch.h"; then
        say "libtorch $torch_version: there"
        return
    fi
    say "libtorch $torch_version: fetching 530 MB"
    fetch_wheel torch "$torch_version" "$torch_sha256" "$arch"
    # PyPI's build is the one for CUDA: its CPU half asks for these two by name, and runs
    # without a GPU or a driver.
    fetch_wheel nvidia-cuda-runtime "$cudart_version" "$cudart_sha256" "$arch"
    fetch_wheel nvidia-cuda-cupti "$cupti_version" "$cupti_sha256" "$arch"
    say "libtorch $torch_version: unpacking"
    local stage=$work/libtorch
    mkdir -p "$stage/lib" "$stage/licenses/torch" "$stage/licenses/nvidia"
    unzip -q -j "$work"/wheels/torch-*.whl "${libs[@]/#/torch/lib/}" -d "$stage/lib"
    unzip -q -j "$work"/wheels/nvidia_cuda_runtime-*.whl nvidia/cu13/lib/libcudart.so.13 -d "$stage/lib"
    unzip -q -j "$work"/wheels/nvidia_cuda_cupti-*.whl nvidia/cu13/lib/libcupti.so.13 -d "$stage/lib"
    unzip -q -j "$work"/wheels/torch-*.whl 'torch-*.dist-info/licenses/*' -d "$stage/licenses/torch"
    unzip -q -j "$work"/wheels/nvidia_cuda_runtime-*.whl '*.dist-info/licenses/*' -d "$stage/licenses/nvidia"
    unzip -q "$work"/wheels/torch-*.whl 'torch/include/*' -d "$work"
    mv "$work/torch/include" "$stage/include"
    # torch-sys links "torch", which in the wheel drags in 450 MB of CUDA kernels. To the
    # linker it is only another name for torch_cpu, so that is what ours says; no program
    # asks for it when it runs.
    echo 'INPUT ( -ltorch_cpu )' >"$stage/lib/libtorch.so"
    # torch-sys compares this with the release that it was written for.
    echo "$torch_version" >"$stage/build-version"
    printf '%s\n' "$wanted" >"$stage/.installed"
    put_folder "$stage" "$torch_dir"
}

trainer=no
for argument in "$@"; do
    case $argument in
        --trainer) trainer=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            die "unknown argument: $argument"
            ;;
    esac
done

for tool in dpkg-query python3; do
    command -v "$tool" >/dev/null || die "$tool is missing; this is for Debian 12 with Python 3"
done

install_packages
install_onnxruntime
install_python
[ "$trainer" = no ] || install_libtorch

summary="ONNX Runtime $ort_version in $ort_dir, Python for the tests in $python_dir"
[ "$trainer" = no ] || summary+=", libtorch $torch_version in $torch_dir"
say "done: $summary"
