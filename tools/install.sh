#!/usr/bin/env bash
# Makes .venv with the tested stack (constraints.txt) and this package, editable; `make install`.
#
# Running it again costs nothing while nothing has changed, and goes on where it was cut off. The wheel
# with mmcv's ops is fetched where the forks have one for this torch and Python, and compiled where they
# have none; it is kept in ${XDG_CACHE_HOME:-~/.cache}/mlp_backbones, outside .venv.
#
# Environment: PYTHON         interpreter to use (3.10 to 3.12)
#              MAX_JOBS       compilers at once (default: as many as cores and memory carry)
#              MIN_DISK_GB    free space to ask for (default 12, for the CUDA build of torch)
#              MMCV_BASE_URL  where mmcv's wheels are, as in mim
#              FORCE_CUDA=1, TORCH_CUDA_ARCH_LIST  as mmcv's build reads them
# Indexes and mirrors are pip's own settings (PIP_INDEX_URL, pip.conf, ...).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/.venv
py=$venv/bin/python
stamp=$venv/.mlp_backbones-installed
unfinished=$venv/.mlp_backbones-unfinished
cache=${XDG_CACHE_HOME:-${HOME:-$venv}/.cache}/mlp_backbones
mmcv=$(sed -n 's/^onedl-mmcv==//p' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

say() { printf "[install $((SECONDS / 60)):$(printf %02d $((SECONDS % 60)))] %s\n" "$@"; } # min:s
die() {
    say "$@" >&2
    exit 1
}
trap 'die "interrupted; run it again to go on"' INT TERM HUP

state() { # of everything that decides what lies in .venv
    echo "$PWD"
    cat constraints.txt setup.py tools/install.sh | cksum
}
is_installed() {
    [[ -f $stamp && -x $py && -e mlp_backbones/.mim/configs && "$(cat "$stamp")" == "$(state)" ]]
}
if is_installed; then
    say 'nothing to do: .venv is up to date'
    exit 0
fi

# --- what must be there before anything starts ---------------------------------------------------

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo '?'; }

candidates=(python3 python3.12 python3.11 python3.10)
if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
base=
for candidate in "${candidates[@]}"; do
    if [[ -z $base ]] && supported "$candidate"; then base=$candidate; fi
done
problems=()
if [[ -z $base ]]; then
    problems+=("Python 3.10 to 3.12: ${candidates[0]} is $(version_of "${candidates[0]}"); name one:"
        '    PYTHON=/path/to/python3.11 make install')
elif ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
    problems+=("Python's venv module (on Debian and Ubuntu: apt-get install python3-venv)")
fi
need=${MIN_DISK_GB:-12}
if [[ -z ${MIN_DISK_GB:-} ]] && compgen -G "$venv/lib/python3*/site-packages/torch" >/dev/null; then
    need=2 # torch is most of it
fi
free=$(df -Pk . | awk 'END { print int($(NF - 2) / 1048576) }')
if ((free < need)); then
    problems+=("disk space: $free GB are free in $PWD, $need GB are needed"
        '    (with a CPU build of torch 4 GB do: MIN_DISK_GB=4 make install)')
fi
if ((${#problems[@]})); then die 'missing; nothing was changed:' "${problems[@]/#/  }"; fi
# shellcheck disable=SC2086  # CXX may hold a launcher and a compiler: "ccache g++"
command -v ${CXX:-c++} >/dev/null ||
    say "there is no ${CXX:-c++}: mmcv's ops cannot be compiled, if no wheel has them ready"
mkdir -p "$cache"

# The lock is on this file, and ends with the last process that has it open, a child too.
exec 9<tools/install.sh
lock() { "$base" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX | $1)" 2>/dev/null; }
lock fcntl.LOCK_NB || { say 'another install works in this checkout: waiting for it' && lock 0; }
if is_installed; then exit 0; fi

# --- .venv ---------------------------------------------------------------------------------------

pip_install() {
    # pip that fails puts back what it changed; what it leaves when it is killed is half of it.
    : >"$unfinished"
    "$py" -m pip install -c constraints.txt --no-build-isolation "$@" ||
        { rm "$unfinished" && die 'pip failed, see above; run it again to go on'; }
    rm "$unfinished"
}

rm -f "$stamp"
if [[ -e $unfinished ]]; then
    say 'an earlier install was cut off while it wrote to .venv: making it anew'
    rm -rf "$venv"
elif [[ -e $venv && ! -f $venv/pyvenv.cfg ]]; then
    die "$venv is there and is no virtual environment: move it away"
elif [[ -e $venv ]] && ! supported "$py"; then
    say ".venv has Python $(version_of "$py"), 3.10 to 3.12 are needed: making it anew"
    rm -rf "$venv"
fi
if ! "$py" -m pip --version >/dev/null 2>&1; then
    say "making .venv with Python $(version_of "$base")"
    "$base" -m venv --clear "$venv"
fi
say 'installing torch and the build tools: 0.2 GB with a CPU build of torch, 3 GB with CUDA; 1 to 5 minutes'
pip_install torch numpy setuptools wheel packaging ninja

# --- mmcv, with ops for this torch ---------------------------------------------------------------

ops_run() { # on the GPU too, where there is one
    "$py" - "$mmcv" >/dev/null 2>"$venv/ops.log" <<'PYTHON'
import sys
from importlib.metadata import version

import torch

assert version('onedl-mmcv') == sys.argv[1], 'another version of onedl-mmcv is installed'
from mmcv.ops import RoIAlign, nms  # noqa: E402

for device in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4.1], [5, 5, 8, 8]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1]
    assert kept.tolist() == [0, 2], f'nms keeps {kept.tolist()} on {device}'
    rois = torch.tensor([[0, 0, 0, 4, 4.0]], device=device)
    pooled = RoIAlign(2)(torch.full((1, 2, 8, 8), 3.0, device=device), rois)
    assert pooled.shape == (1, 2, 2, 2) and (pooled == 3).all(), f'RoIAlign is wrong on {device}'
PYTHON
}

# Prints what a wheel of mmcv fits, and where the forks may have one: made for the minor version of
# torch and for the CPU or a version of CUDA.
wheel_names() {
    "$py" - <<'PYTHON'
import os
import platform
import sys

import torch

key = f'torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}'
platform_of_torch = 'cpu'
if torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1':
    devices = range(torch.cuda.device_count())
    archs = sorted({'%d.%d' % torch.cuda.get_device_capability(i) for i in devices})
    asked = os.environ.get('TORCH_CUDA_ARCH_LIST', '').replace(';', ' ').split()
    key += f'-cuda{torch.version.cuda}-sm{"_".join(asked or archs)}'
    platform_of_torch = 'cu' + str(torch.version.cuda).replace('.', '')
print(key, f'{platform_of_torch}-torch{"".join(torch.__version__.split(".")[:2])}0')
PYTHON
}

use_wheel() { # whether the folder $1 has a wheel whose ops run
    compgen -G "$1/*.whl" >/dev/null || return 1
    "$py" -m pip uninstall -qy onedl-mmcv 2>/dev/null || true
    pip_install "$1"/*.whl onedl-mmengine
    ops_run
}

fetch_wheel() { # to the folder $1
    say "looking for a wheel of mmcv $mmcv in $wheels"
    "$py" -m pip wheel --no-deps --only-binary :all: --retries 0 --timeout 15 --wheel-dir "$1" \
        --find-links "$wheels" "onedl-mmcv==$mmcv" >"$venv/install.log" 2>&1
}

# Nearly all of a file's time goes into the headers of torch: 6 units instead of 78 files, in a tenth of
# the time. A file that defines a name of another's (a template, a macro) stays a unit of its own.
make_units() { # in the sources $1
    mkdir "$1/units"
    # Ninja takes them in the order of their names: host.cpp, the longest, first.
    (cd "$1" && for file in mmcv/ops/csrc/pytorch/{,cpu/}*.cpp; do
        case $file in
            */cpu/roi_align*.cpp | */cpu/rotated_feature_align.cpp | */cpu/psamask.cpp)
                unit=kernels_${file##*/} ;;
            */cpu/*) unit=kernels.cpp ;;
            *) unit=host.cpp ;;
        esac
        echo "#include \"../$file\"" >>"units/$unit"
    done)
    sed -i.by_file "s#'./mmcv/ops/csrc/pytorch/\*.cpp'#'./units/host.cpp'#
        s#'./mmcv/ops/csrc/pytorch/cpu/\*.cpp'#'./units/kernels*.cpp'#" "$1/setup.py"
}

build_wheel() { # in the folder $1/wheel, of the sources $2, with the log $3; it takes a time of $4
    local flags=${CPPFLAGS:-} more=
    # CPPFLAGS, because setuptools takes CFLAGS instead of Python's own, and -O3 is among those.
    if [[ $key == *-cuda* ]]; then more=', and more for the GPU'; else flags+=' -g0'; fi
    say "compiling mmcv's ops, once, $MAX_JOBS compilers at once: $4 on 2 free cores$more"
    CPPFLAGS=$flags MMCV_WITH_OPS=1 "$py" -m pip wheel -v --no-cache-dir --no-deps \
        --no-build-isolation --wheel-dir "$1/wheel" "$2" 2>&1 | tee "$3" |
        { grep --line-buffered -Eo '^ *\[[0-9]+/[0-9]+\]' || true; }
}

compile_failed() { # as the log $1 says
    grep -E '(fatal )?error: |No space left|Killed' "$1" | head -n 5 | cut -c 1-300 >&2
    die "the compile failed, see $1; where memory is short: MAX_JOBS=1 make install"
}

compile_wheel() { # to the folder $1; ninja goes on where an earlier compile stopped
    local build=$venv/mmcv-build log=$venv/mmcv-build.log std=c++17 source try
    source=$build/onedl_mmcv-$mmcv
    # The headers of torch 2.14 need it, and mmcv's setup.py asks for C++17.
    if grep -q 'C++20 or later' "$venv"/lib/python*/site-packages/torch/include/ATen/ATen.h; then
        std=c++20
    fi
    try=$(mktemp -d)
    echo '#include <optional>
#include <Python.h>
int main() { return std::optional<int>(0).value(); }' >"$try/try.cpp"
    # shellcheck disable=SC2086  # CXX may hold a launcher and a compiler: "ccache g++"
    ${CXX:-c++} "-std=$std" -c -o "$try/try.o" "$try/try.cpp" \
        -I"$("$py" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')" 2>"$log" ||
        die "mmcv has no wheel for this torch and Python, and '${CXX:-c++}' does not compile" \
            "$std with Python.h (on Debian and Ubuntu: apt-get install g++ python3-dev): see $log." \
            'What is installed stays; run it again then.'
    rm -r "$try"
    if [[ $key == *-cuda* ]] && ! "$py" -c 'from torch.utils.cpp_extension import CUDA_HOME as home
raise SystemExit(home is None)'; then
        die 'torch sees a GPU, but nvcc, which compiles the ops for it, is not there: install the CUDA' \
            'toolkit of its version and set CUDA_HOME, or CUDA_VISIBLE_DEVICES= make install'
    fi
    if [[ ! -d $source ]]; then
        say "fetching the source of mmcv $mmcv"
        rm -rf "$build" && mkdir "$build"
        "$py" -m pip download --quiet --no-deps --no-build-isolation --no-binary onedl-mmcv \
            --dest "$build" "onedl-mmcv==$mmcv" && "$py" -m tarfile -e "$source.tar.gz" "$build/new" ||
            { rm -rf "$build" && die 'the source of mmcv did not come'; }
        sed -i.c++17 "s/-std=c++17/-std=$std/" "$build/new/${source##*/}/setup.py"
        make_units "$build/new/${source##*/}"
        mv "$build/new/${source##*/}" "$source"
    fi
    # A compiler takes up to 2.3 GB, with CUDA 3.3.
    export MAX_JOBS=${MAX_JOBS:-$("$py" -c 'import os
memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print(max(1, min(cores, memory // (5 * 2**29))))')}
    if [[ -e $source/setup.py.by_file ]] && ! build_wheel "$build" "$source" "$log" '2 minutes'; then
        if grep -q 'No space left' "$log"; then compile_failed "$log"; fi
        mv "$log" "$log.units"
        say "that failed in large units (see $log.units): once more, file by file"
        mv "$source/setup.py.by_file" "$source/setup.py"
    fi
    if [[ ! -e $source/setup.py.by_file ]]; then
        build_wheel "$build" "$source" "$log" '8 to 20 minutes' || compile_failed "$log"
    fi
    mkdir -p "$1" && mv "$build/wheel"/*.whl "$1" && rm -rf "$build"
}

if ! ops_run; then
    read -r key folder <<<"$(wheel_names)"
    wheels=${MMCV_BASE_URL:-https://mmwheels.onedl.ai}/$folder/simple/onedl-mmcv/index.html
    kept=$cache/onedl-mmcv-$mmcv-$key
    for way in 'test -d' fetch_wheel compile_wheel; do
        if $way "$kept" && use_wheel "$kept"; then break; fi
        rm -rf "$kept"
    done
    ops_run || die "mmcv's ops do not run: $(tail -n 1 "$venv/ops.log")"
fi

# --- the rest ------------------------------------------------------------------------------------

say 'installing mmdet, mmseg and mlp_backbones with its development tools: 1 to 2 minutes'
pip_install --editable '.[onedl,predict,dev]'
say 'installing the packages that tests and pre-training need beside them: half a minute'
# Off the import path: mmengine and mmdet import torchvision, transformers and mmpretrain wherever they
# find them, and PyPI's torchvision does not import beside a CPU build of torch; transformers adds a
# quarter to the start of every tool. tests/reference.py and engine/classification.py import from here.
pip_install --upgrade --no-deps --target "$venv/reference" timm torchvision \
    onedl-mmpretrain mat4py model-index ordered-set markdown \
    peft transformers accelerate tokenizers huggingface-hub regex psutil

# mmengine prints configs by yapf, which writes its grammar to the user's cache when it is first
# imported: here, and not by two processes of a training at once.
say "$(cd "$venv" && "$py" -c 'import mlp_backbones, mmcv, mmdet, mmengine, mmseg, torch, yapf
print("done:", *(f"{m.__name__} {m.__version__}" for m in (torch, mmengine, mmcv, mmdet, mmseg)))')"
state >"$stamp.new"
mv "$stamp.new" "$stamp"
