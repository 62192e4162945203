.DEFAULT_GOAL := help
.PHONY: help install lint format test test-quick test-oldest demo demo-seg demo-real survive bench wheel clean

PYTHON_BIN := .venv/bin/python
FAMILY ?= gmlp
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: ## make .venv: torch, the onedl stack with mmcv's ops, this package (editable)
	@tools/install.sh

lint: install ## ruff: rules and format
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check .

format: install ## ruff: repair what it can
	$(PYTHON_BIN) -m ruff check --fix .
	$(PYTHON_BIN) -m ruff format .

# One thread for each worker: more of them only wait for one another.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PYTHON_BIN) -m pytest -n $(WORKERS) --dist worksteal

test: lint ## lint and all tests; PYTEST_ARGS="-k gmlp" runs some, WORKERS=0 in one process
	$(PYTEST) $(PYTEST_ARGS)

test-quick: lint ## lint and the quick tests of the models, below two minutes
	$(PYTEST) tests/models -m 'not slow' $(PYTEST_ARGS)

# torch 2.1 knows no Python after 3.11.
OLDEST := .venv-oldest
OLDEST_PYTHON := $(or $(PYTHON),$(shell command -v python3.11 || command -v python3.10 || echo python3))

$(OLDEST)/installed: tests/oldest.txt setup.py
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install -r tests/oldest.txt -e .
	touch $@

test-oldest: $(OLDEST)/installed ## the tests of the models with the oldest torch, in .venv-oldest
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal \
		tests/models tests/checkpoints $(PYTEST_ARGS)

DEMO = $(PYTHON_BIN) tools/demo.py --family $(FAMILY) $(if $(PRETRAINED),--pretrained) $(DEMO_ARGS)

demo: install ## train Mask R-CNN with FAMILY (gmlp) on made images, on the CPU; PRETRAINED=1: from our weights
	$(DEMO) --task det

demo-seg: install ## the same with UperNet
	$(DEMO) --task seg

demo-real: FAMILY = shift_gmlp
demo-real: PRETRAINED = 1
demo-real: install ## fine-tune a detector from our weights on photographs of blood cells, which it fetches
	$(DEMO) --task real

survive: install ## kill 30 trainings at random moments, resume them, and compare; then mmengine's (half an hour)
	$(PYTHON_BIN) tools/survive.py $(SURVIVE_ARGS)

bench: install ## the promised speed against Swin-T and timm, bar by bar (half an hour, on a quiet machine)
	$(PYTHON_BIN) tools/benchmark_bars.py $(BENCH_ARGS)

wheel: install ## build dist/*.whl
	$(PYTHON_BIN) -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove build products; .venv, data and results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find mlp_backbones configs tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
