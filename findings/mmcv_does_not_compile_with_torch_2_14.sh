#!/usr/bin/env bash
# Expected: mmcv compiles with the newest torch; it requires none in particular, and its setup.py picks
#   the C++ standard by torch's version.
# Versions: torch 2.14.1 and onedl-mmcv 2.3.6 (mmcv 2.2.0 of OpenMMLab has the same line), g++ 12.2.
# Behaviour: setup.py knows one change of standard, at torch 1.12.1, and asks for C++17 ever since. The
#   headers of torch 2.14 refuse anything below C++20, so every one of mmcv's 78 files fails. With
#   -std=c++20 in setup.py all compile, and the ops give the same numbers.
# Output seen:
#   torch/include/ATen/ATen.h:5:2: error: #error C++20 or later compatible compiler is required to use ATen.
# Date: 2026-11-29. Takes 6 GB of disk (PyPI's torch is a build for CUDA) and some minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
py=$folder/venv/bin/python
"$py" -m pip install --quiet torch==2.14.1 numpy==2.2.6 setuptools==80.10.2 wheel==0.48.0 \
    packaging==26.3 ninja==1.13.2
MMCV_WITH_OPS=1 MAX_JOBS=2 "$py" -m pip wheel -v --no-deps --no-build-isolation \
    --no-binary onedl-mmcv --no-cache-dir --wheel-dir "$folder" onedl-mmcv==2.3.6 >"$folder/log" 2>&1 &&
    { echo 'changed: it compiles' && exit 1; }
grep -m 1 -o 'torch/include.*#error C++20 or later.*' "$folder/log" ||
    { echo 'changed: it fails in another way' && tail -n 5 "$folder/log" && exit 1; }
