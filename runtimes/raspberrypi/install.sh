#!/usr/bin/env bash
# Sets EdgeExit up on a Raspberry Pi in a virtual environment of its own; running it again updates it. Needs no root.
set -euo pipefail

usage() {
    cat <<'TEXT'
install.sh [OPTIONS] onnx|tflite|onnx,tflite

  --venv DIR      the environment [default: ~/edgeexit/venv]
  --wheel FILE    install this wheel [default: the checkout that this script lies in]
  --unit SCRIPT   also write edgeexit.service beside the environment: a systemd unit that runs this Python script
  --check         only say whether this machine will do
TEXT
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
venv=$HOME/edgeexit/venv
python=${PYTHON:-python3}
extra='' wheel='' script='' check=''
while [ $# -gt 0 ]; do
    case $1 in
        --venv | --wheel | --unit)
            [ $# -ge 2 ] || die "$1 needs a value"
            case $1 in --venv) venv=$2 ;; --wheel) wheel=$2 ;; --unit) script=$2 ;; esac
            shift
            ;;
        --check) check=1 ;;
        -h | --help) usage && exit ;;
        onnx | tflite | onnx,tflite) extra=$1 ;;
        *) usage >&2 && die "unknown argument '$1'" ;;
    esac
    shift
done
[ -n "$extra" ] || { usage >&2 && die "which engine? onnx, tflite or onnx,tflite"; }

# --- will this machine do?
command -v "$python" >/dev/null || die "no $python here: sudo apt install python3 python3-venv"
machine=$(uname -m)
# A 32-bit Raspberry Pi OS may run on a 64-bit kernel: `uname` says aarch64 there, but wheels follow Python.
bits=$("$python" -c 'import struct; print(struct.calcsize("P") * 8)')
case $machine/$bits in
    aarch64/64) ;;
    aarch64/32 | armv8l/32 | armv7l/32) ;;
    armv6l/*) die "found armv6l (Pi 1, Zero, Zero W): no engine has wheels for it; use a Pi 3, Zero 2 W or later" ;;
    *) die "found $machine with a $bits-bit Python, expected aarch64 or armv7l; elsewhere: pip install 'edgeexit[$extra]'" ;;
esac
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "found Python $version, expected 3.10 or newer: Raspberry Pi OS 12 (bookworm) or later has it"
if [ "$bits" = 32 ]; then
    [ "$extra" = tflite ] || die "on a 32-bit system only 'tflite' has wheels, found '$extra'; a 64-bit system has both"
    "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' ||
        die "found a 32-bit Python $version: tflite-runtime has 32-bit wheels up to 3.11; use a 64-bit system"
    "$python" -c 'import numpy, sys; sys.exit(int(numpy.__version__.split(".")[0]) >= 2)' 2>/dev/null ||
        die "a 32-bit system needs Debian's own numpy 1: sudo apt install python3-numpy"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null || die "this Python has no venv: sudo apt install python3-venv"
[ -z "$wheel" ] || [ -f "$wheel" ] || die "no wheel $wheel"
[ -n "$wheel" ] || [ -f "$source/pyproject.toml" ] || die "no checkout around this script: give --wheel FILE"
if [ -n "$script" ]; then
    [ -f "$script" ] || die "no script $script"
    script=$(cd "$(dirname "$script")" && pwd)/$(basename "$script")
    case $script$venv in *[!A-Za-z0-9_./-]*) die "systemd wants plain paths, found $script and $venv" ;; esac
fi
echo "$machine, $bits-bit Python $version: will do"
[ -z "$check" ] || exit 0

# --- the environment
if [ -e "$venv" ]; then
    [ -f "$venv/pyvenv.cfg" ] || die "$venv is there and is no virtual environment: give another with --venv"
    found=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo a broken one)
    [ "$found" = "$version" ] || die "$venv is of Python $found, this system has $version: rm -r $venv, then again"
fi
options=()
if [ "$bits" = 32 ]; then options=(--system-site-packages); fi # for Debian's numpy; elsewhere it would let apt's onnxruntime in
"$python" -m venv "${options[@]}" "$venv"
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --upgrade)
if [ "$bits" = 32 ]; then
    # By name: the extra's markers look at the kernel's name, which may be aarch64 or armv8l here.
    "${pip[@]}" "${wheel:-$source}" 'tflite-runtime==2.14.0' 'numpy<2'
else
    "${pip[@]}" "${wheel:-$source}[$extra]"
fi
# A wheel of the same version would be left as it is.
[ -z "$wheel" ] || "${pip[@]}" --quiet --force-reinstall --no-deps "$wheel"

# --- does it run?
for engine in ${extra//,/ }; do
    code=0
    "$venv/bin/python" -c "from edgeexit.engine import backends; print(backends.get('$engine').version())" || code=$?
    [ $code != 132 ] || die "$engine died of an illegal instruction: this build is not for this processor (README, 'onnxruntime')"
    [ $code = 0 ] || die "$engine does not start: see above"
done
bundle=$source/models/bundles/resnet8-cifar10.edgeexit
[ ! -d "$bundle" ] || "$venv/bin/edgeexit" verify "$bundle"

# --- the unit
if [ -n "$script" ]; then
    unit=$(dirname "$venv")/edgeexit.service
    sed -e "s|^User=.*|User=$(id -un)|" \
        -e "s|^WorkingDirectory=.*|WorkingDirectory=$(dirname "$script")|" \
        -e "s|^ExecStart=.*|ExecStart=$venv/bin/python $script|" "$here/edgeexit.service" >"$unit"
    echo "wrote $unit; to start it now and at every boot:"
    echo "  sudo cp $unit /etc/systemd/system/ && sudo systemctl daemon-reload && sudo systemctl enable --now edgeexit"
fi
