# Needs Python 3.11 or newer and make; everything else is installed into .venv by the first target that wants it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv quickstart space test test-kernels slow bench lint typecheck format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP)  ## set up .venv with everything the other targets need (they do it by themselves)

quickstart: $(STAMP)  ## train MIRA on images the package makes itself, evaluate it, print a table, save a picture
	$(BIN)/accelerate launch recipes/train.py
	$(BIN)/accelerate launch recipes/evaluate.py runs/mira-embedded --baselines

space: $(STAMP)  ## look at clusters in the browser, first the embedded model's; ARGS='--help' lists the options
	$(BIN)/python space/app.py $(ARGS)

test: $(STAMP)  ## run the tests (CPU, offline, a few minutes); ARGS='-k words' passes options to pytest
	$(PYTEST) -m 'not slow' $(ARGS)

# Shapes, places in memory and vector instructions decide how numbers round: here all three are others.
KERNELS := SSL_ZOO_TEST_KERNELS=other ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
ROUNDING := $(addprefix tests/,test_kernels.py nn models loading $(addprefix evaluation/test_,knn.py kmeans.py linear.py \
  logistic.py protocol.py spectrum.py))
# These start processes, which take kernels of their own.
ELSEWHERE := whoever_builds or exported_code or without_ssl_zoo or takes_no_memory

test-kernels: $(STAMP)  ## run tests that compare numbers (2 minutes), where numbers round otherwise
	$(KERNELS) $(PYTEST) -m 'not slow' -k 'not ($(ELSEWHERE))' $(ROUNDING) $(ARGS)

slow: $(STAMP)  ## run the tests that `make test` leaves out; ARGS='--for-seconds 600' takes some of them in turn
	$(PYTEST) -m slow $(ARGS)

bench: $(STAMP)  ## measure ours against its rivals (half an hour on an idle machine), and write docs/benchmarks.md
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/all.py $(ARGS)

lint: $(STAMP)  ## check style and formatting (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)  ## check the package's type hints (mypy, strict)
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the files in the house style (ruff)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and build leftovers; keeps .venv and runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find ssl_zoo recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "ssl_zoo needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)." >&2; \
	  echo "Name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up $(VENV): this downloads PyTorch and takes a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	@if [ -t 1 ]; then quiet=; else quiet=-qq; fi; set -x; \
	  $(BIN)/python -m pip install $$quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
