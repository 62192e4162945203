#!/usr/bin/env bash
# Makes .venv with the tested stack (constraints.txt) and this package, editable; `make install`.
#
# Running it again costs nothing while nothing has changed, and goes on where it was cut off.
# mmcv's ops are compiled once for each torch, Python and GPU: the wheel is kept in
# ${XDG_CACHE_HOME:-~/.cache}/mlp_backbones, outside .venv.
#
# Environment: PYTHON       interpreter to use (3.10 to 3.12)
#              MAX_JOBS     compilers at once (default: as many as cores and memory carry)
#              MIN_DISK_GB  free space to ask for (default 12, for the CUDA build of torch)
#              FORCE_CUDA=1, TORCH_CUDA_ARCH_LIST  as mmcv's build reads them
# Indexes and mirrors are pip's own settings (PIP_INDEX_URL, pip.conf, ...).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
py=$venv/bin/python
log=$venv/install.log
# Lies in .venv while something writes to it: what a kill leaves then cannot be trusted.
unfinished=$venv/.mlp_backbones-unfinished
stamp=$venv/.mlp_backbones-installed
HEARTBEAT=30 # seconds
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

say() { printf '[install] %s\n' "$*"; }
die() {
    printf '[install] %s\n' "$@" >&2
    exit 1
}
pin() { sed -n "s/^$1==\([^; ]*\).*/\1/p" constraints.txt | head -n 1; }

state() { # of everything that decides what lies in .venv
    echo "$root"
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

problems=
problem() { problems+="  - $*"$'\n'; }

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo '?'; }

find_python() { # prints the first interpreter that will do
    local candidate
    for candidate in python3 python3.12 python3.11 python3.10; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

check_python() { # sets base: the interpreter that .venv is made with, or that it has
    base=
    if [[ -n ${PYTHON:-} ]]; then
        if supported "$PYTHON"; then base=$PYTHON; else
            problem "Python 3.10 to 3.12: PYTHON=$PYTHON is $(version_of "$PYTHON")"
            return
        fi
    elif ! base=$(find_python); then
        problem "Python 3.10 to 3.12: python3 is $(version_of python3);" \
            'install one, or name it: PYTHON=/path/to/python3.11 make install'
        return
    fi
    local version
    version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        problem "Python's venv module (on Debian and Ubuntu: apt-get install python$version-venv)"
    "$base" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        problem "Python.h of Python $version (on Debian and Ubuntu:" \
            "apt-get install python$version-dev)"
}

check_compiler() {
    local compiler=${CXX:-c++} folder
    folder=$(mktemp -d)
    echo '#include <optional>
int main() { return std::optional<int>(0).value(); }' >"$folder/try.cpp"
    # shellcheck disable=SC2086  # CXX may hold a launcher and a compiler: "ccache g++"
    $compiler -std=c++17 "$folder/try.cpp" -o "$folder/try" >/dev/null 2>&1 ||
        problem "a C++17 compiler: '$compiler' does not compile" \
            '(on Debian and Ubuntu: apt-get install g++; another one: CXX=... make install)'
    rm -rf "$folder"
}

check_disk() {
    local free need=${MIN_DISK_GB:-12}
    # torch is most of it; with it in place, little is left to be written.
    if compgen -G "$venv/lib/python3*/site-packages/torch/version.py" >/dev/null; then
        need=${MIN_DISK_GB:-2}
    fi
    free=$(df -Pk "$root" | awk 'END { print int($(NF - 2) / 1048576) }')
    ((free >= need)) ||
        problem "disk space: $free GB are free in $root, $need GB are needed" \
            '(with a CPU build of torch 4 GB do: MIN_DISK_GB=4 make install)'
}

cache=${XDG_CACHE_HOME:-${HOME:-$root/.venv}/.cache}/mlp_backbones

check_cache() {
    mkdir -p "$cache" 2>/dev/null && [[ -w $cache ]] ||
        problem "a folder to keep mmcv's wheel in: cannot write to $cache;" \
            'name another: XDG_CACHE_HOME=/path make install'
}

check_python
check_compiler
check_disk
check_cache
if [[ -n $problems ]]; then
    die "missing; nothing was changed:"$'\n'"${problems%$'\n'}"
fi

# --- one install at a time -----------------------------------------------------------------------
# The lock is on this script's own file, and ends with the last process that has it open: children
# of an install that was killed hold it too, until they are done.
exec 9<tools/install.sh
"$base" - <<'PYTHON'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print('[install] another install works in this checkout: waiting for it to end', flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
PYTHON
if is_installed; then
    say 'nothing left to do: .venv is up to date'
    exit 0
fi

# --- running a step ------------------------------------------------------------------------------

child=
step_log=
pip_writes= # the line that pip prints before it touches .venv, while pip is what runs
spare_venv() { # pip that ended before that line has changed nothing
    if [[ -n $pip_writes ]] && ! grep -q "$pip_writes" "$step_log"; then rm -f "$unfinished"; fi
}
stop() { # an interrupt: end the step with everything that it started
    trap - INT TERM HUP
    if [[ -n $child ]]; then
        kill -TERM -- "-$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
        spare_venv
    fi
    die 'interrupted; run it again to go on'
}
trap stop INT TERM HUP

progress() { # of the compile, from ninja's "[43/78]" in its log
    sed -n 's/^ *\[\([0-9]*\)\/\([0-9]*\)\] .*/file \1 of \2, /p' "$1" | tail -n 1
}
elapsed() { # since $1
    local seconds=$((SECONDS - $1))
    if ((seconds < 60)); then echo "$seconds s"; else echo "$((seconds / 60)) min"; fi
}

run_step() { # run_step TITLE LOG COMMAND...: says every HEARTBEAT seconds that it is at work
    local title=$1 output=$2 began=$SECONDS next=$((SECONDS + HEARTBEAT)) status=0
    shift 2
    step_log=$output
    say "$title"
    set -m # its own process group, for stop()
    "$@" >"$output" 2>&1 </dev/null &
    child=$!
    set +m
    while kill -0 "$child" 2>/dev/null; do
        sleep 1
        if ((SECONDS >= next)); then
            say "  ... $(progress "$output")$(elapsed "$began") so far"
            next=$((SECONDS + HEARTBEAT))
        fi
    done
    wait "$child" || status=$?
    child=
    ((status == 0)) && return
    spare_venv
    {
        say "failed: $title. The end of $output:"
        grep -E '(^|[^[:alnum:]_])(fatal )?error: |No space left|Killed' "$output" |
            head -n 5 | cut -c 1-300 || true
        echo '  ...'
        tail -n 15 "$output" | cut -c 1-300
        if grep -q 'Killed' "$output"; then
            say 'the compiler was killed, most likely for want of memory: MAX_JOBS=1 make install'
        fi
    } >&2
    exit "$status"
}

into_venv() { # into_venv TITLE COMMAND...: a step that writes to .venv
    local title=$1
    shift
    : >"$unfinished"
    run_step "$title" "$log" "$@"
    rm -f "$unfinished"
}
pip_install() { # pip_install TITLE REQUIREMENT...
    local title=$1
    shift
    pip_writes='^Installing collected packages'
    into_venv "$title" "$py" -m pip install -c constraints.txt --no-build-isolation "$@"
    pip_writes=
}

# --- .venv ---------------------------------------------------------------------------------------

rm -f "$stamp"
if [[ -e $unfinished ]]; then
    say 'an earlier install was cut off while it wrote to .venv: making it anew'
    rm -rf "$venv"
elif [[ -e $venv ]]; then
    if [[ ! -f $venv/pyvenv.cfg ]]; then
        die "$venv is there and is no virtual environment: move it away"
    elif ! "$py" -c '' 2>/dev/null; then
        say "the Python of .venv does not start any more: making it anew"
        rm -rf "$venv"
    elif ! supported "$py"; then
        die ".venv has Python $(version_of "$py"), 3.10 to 3.12 are needed: rm -r '$venv'"
    fi
fi
if [[ ! -e $venv ]]; then
    mkdir "$venv"
    into_venv "making .venv with Python $(version_of "$base")" "$base" -m venv "$venv"
elif ! "$py" -m pip --version >/dev/null 2>&1; then
    into_venv 'adding pip to .venv' "$py" -m ensurepip
fi

# --- torch, and mmcv's ops compiled against it ---------------------------------------------------

pip_install "installing torch $(pin torch) and the build tools" \
    torch numpy setuptools wheel packaging ninja

mmcv_version=$(pin onedl-mmcv)

# On a machine with a GPU the ops must run there too.
run_ops() {
    "$py" - "$mmcv_version" <<'PYTHON'
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
    features = torch.full((1, 2, 8, 8), 3.0, device=device)
    pooled = RoIAlign(2)(features, rois)
    assert pooled.shape == (1, 2, 2, 2) and (pooled == 3).all(), f'RoIAlign is wrong on {device}'
PYTHON
}

# Prints what a wheel of mmcv fits: torch, Python, machine, and the GPUs that it is built for.
wheel_key() {
    "$py" - <<'PYTHON'
import os
import platform
import sys

import torch
from torch.utils.cpp_extension import CUDA_HOME

key = f'torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}'
if torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1':
    if CUDA_HOME is None:
        sys.exit(
            '[install] torch sees a GPU, but nvcc, which compiles the ops for it, is not there.\n'
            f'[install] Install the CUDA toolkit {torch.version.cuda} and set CUDA_HOME, or use '
            'the CPU only:\n[install]     CUDA_VISIBLE_DEVICES= make install'
        )
    present = range(torch.cuda.device_count())
    archs = sorted({'%d.%d' % torch.cuda.get_device_capability(i) for i in present})
    asked = os.environ.get('TORCH_CUDA_ARCH_LIST', '').replace(';', ' ').split()
    key += f'-cuda{torch.version.cuda}-sm{"_".join(asked or archs)}'
print(key)
PYTHON
}

default_jobs() { # a compiler takes up to 2 GB
    "$py" -c 'import os
memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print(max(1, min(cores, memory // 2**31)))'
}

build_wheel() { # build_wheel FOLDER: puts mmcv's wheel there when it is complete
    # Built in its own folder: ninja goes on where an interrupted compile stopped.
    local folder=$1 build=$venv/mmcv-build jobs=${MAX_JOBS:-$(default_jobs)}
    local source=$build/onedl_mmcv-$mmcv_version
    mkdir -p "$build" "$folder"
    if [[ ! -d $source ]]; then
        rm -rf "$build/unpacked"
        run_step "fetching the source of mmcv $mmcv_version" "$log" \
            "$py" -m pip download --no-deps --no-build-isolation --no-binary onedl-mmcv \
            --dest "$build" "onedl-mmcv==$mmcv_version"
        "$py" -m tarfile -e "$build/onedl_mmcv-$mmcv_version.tar.gz" "$build/unpacked"
        mv "$build/unpacked/onedl_mmcv-$mmcv_version" "$source"
    fi
    rm -rf "$build/wheel"
    MAX_JOBS=$jobs MMCV_WITH_OPS=1 run_step \
        "compiling mmcv's ops, $jobs at once; on 2 cores this takes 8 to 20 minutes, once" \
        "$venv/mmcv-build.log" \
        "$py" -m pip wheel -v --no-cache-dir --no-deps --no-build-isolation \
        --wheel-dir "$build/wheel" "$source"
    cp "$build/wheel"/onedl_mmcv-*.whl "$folder/.unfinished"
    mv "$folder/.unfinished" "$folder/$(cd "$build/wheel" && echo onedl_mmcv-*.whl)"
    rm -rf "$build"
}

if ! run_ops >/dev/null 2>&1; then
    folder=$cache/onedl-mmcv-$mmcv_version-$(wheel_key)
    wheel() { compgen -G "$folder/onedl_mmcv-*.whl" | head -n 1; }
    if [[ -n $(wheel) ]]; then
        say "mmcv's ops were compiled before: $folder"
    else
        build_wheel "$folder"
    fi
    pip_install "installing mmcv $mmcv_version" --force-reinstall --no-deps "$(wheel)"
    pip_install "installing what mmcv needs" onedl-mmcv onedl-mmengine
    if ! run_ops >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        rm -rf "$folder"
        die "mmcv's ops do not run; their wheel was removed from $folder." \
            'Run it again to compile them anew.'
    fi
fi

# --- the rest ------------------------------------------------------------------------------------

pip_install 'installing mmdet, mmseg and mlp_backbones with its development tools' \
    --editable '.[onedl,dev]'

# Off the import path: mmengine imports torchvision wherever it finds it, and PyPI's does not import
# beside a CPU build of torch. tests/reference.py imports it from here.
pip_install 'installing timm, the reference that the tests compare with' \
    --upgrade --no-deps --target "$venv/reference" timm torchvision

say 'checking the install'
run_ops
(cd "$venv" && "$py" -c 'import mmdet, mmseg, mlp_backbones') || die 'the install does not import'

state >"$stamp.new"
mv "$stamp.new" "$stamp"
say "done in $(elapsed 0): $("$py" -c 'import mmcv, mmdet, mmengine, mmseg, torch
print(", ".join(f"{m.__name__} {m.__version__}" for m in (torch, mmengine, mmcv, mmdet, mmseg)))')"
