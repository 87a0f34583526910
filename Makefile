# Every command of the repository. Each one works on a fresh clone: the first builds .venv.

SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Interpreters to try for the environment, first that fits wins: make PYTHON=/path/to/python3.11
PYTHON ?= python3.11 python3.12 python3 python
# What `pip install` is given for torch. For a certain CUDA or CPU build, take the index address
# from PyTorch's own selector: make TORCH="torch==2.13.0 --index-url ADDRESS"
TORCH ?= $(shell grep '^torch==' constraints.txt) -c constraints.txt

PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check
# Of pyproject.toml; a variable, as a comma would end an argument of $(call ...).
EXTRAS := test,grid
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
NO_PYTHON := No Python 3.11 or 3.12 with venv found (tried: $(PYTHON)). \
	Install one, or name it: make PYTHON=/path/to/python3.11

# The notebooks write what they compute: under test, into a copy of the committed results.
SCRATCH := cache/test-outputs

# $(call step,message,command): says what happens, then how long it took.
define step
@printf '==> %s\n' "$(1)"; start=$$(date +%s); $(2) && \
	printf '    done in %d s\n' $$(( $$(date +%s) - start ))
endef

# The grid: make grid DATASET=toy SCALE=smoke MODELS="tr_s ga_b" TRAIN_DATA="raw distilled" SEEDS="1 2"
DATASET ?= toy
SCALE ?= smoke
GRID = --dataset $(DATASET) --scale $(SCALE) $(if $(MODELS),--models $(MODELS)) \
	$(if $(TRAIN_DATA),--train-data $(TRAIN_DATA)) $(if $(SEEDS),--seeds $(SEEDS)) \
	$(if $(SEEDED),--seeded $(SEEDED)) $(if $(SEEDED_DATA),--seeded-data $(SEEDED_DATA)) \
	$(if $(ACCOUNTINGS),--accountings $(ACCOUNTINGS)) $(if $(OVERRIDES),--overrides '$(OVERRIDES)') \
	$(if $(PROCESSES),--processes $(PROCESSES)) $(if $(CORES),--cores $(CORES))

# make gpu PLAN=multi30k_mini MINUTES=9 ARGS="--side-by-side 8 --archive results"
PLAN ?= multi30k_mini
MINUTES ?= 60

.PHONY: help demo grid gpu test lint unit nbval bench gallery notebooks clean distclean

help:  ## this list
	@printf 'make TARGET, where TARGET is one of\n\n'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nThe first one builds .venv (about two minutes and, with CUDA, a few gigabytes).\n'

$(STAMP): pyproject.toml constraints.txt
	@if ! $(PY) -c 'import pip; $(FITS)' 2>/dev/null; then \
		for candidate in $(PYTHON); do \
			"$$candidate" -c '$(FITS)' 2>/dev/null && break; candidate=; \
		done; \
		if [ -z "$$candidate" ]; then echo '$(NO_PYTHON)' >&2; exit 1; fi; \
		printf '==> [1/3] environment in $(VENV) with %s\n' \
			"$$("$$candidate" -c 'import sys; print("Python", sys.version.split()[0])')"; \
		"$$candidate" -m venv --clear $(VENV); \
	fi
	$(call step,[2/3] installing torch (200 MB or a few gigabytes with CUDA: minutes),$(PIP) $(TORCH))
	$(call step,[3/3] installing the rest at the versions in constraints.txt (1-2 minutes),\
		$(PIP) -e '.[$(EXTRAS)]' -c constraints.txt)
	@touch $@

demo: $(STAMP)  ## the whole experiment on the toy corpus: every model, tables, figures (minutes)
	@$(PY) -m workflow.grid --seeds 1 2 3 --seeded tr_s ga_b fl_s

grid: $(STAMP)  ## every model on raw and distilled text: DATASET=toy SCALE=smoke (hours at mini)
	@$(PY) -m workflow.grid $(GRID)

test: lint unit nbval  ## linter, tests, every notebook (minutes); what .ci/run calls

lint: $(STAMP)  ## the linter alone (seconds)
	$(call step,linter,$(PY) -m ruff check .)

unit: export OMP_NUM_THREADS = 1
unit: export TQDM_DISABLE = 1
unit: $(STAMP)  ## the tests in tests/ alone (minutes); ARGS="-k flows" picks some
	$(call step,tests of the modules and of the repository,$(PY) -m pytest -q --durations=5 $(ARGS))

nbval: export DISCREPANCY_OUTPUTS = $(CURDIR)/$(SCRATCH)
nbval: export OMP_NUM_THREADS = 2
nbval: export OMP_WAIT_POLICY = PASSIVE
nbval: export TQDM_DISABLE = 1
nbval: $(STAMP)  ## every notebook, run and compared with its committed outputs (minutes)
	@rm -rf $(SCRATCH) && mkdir -p $(SCRATCH) outputs
	@cd outputs && find . -type f -size -4096k -print0 | tar -cf - --null -T - | \
		tar -xf - -C $(CURDIR)/$(SCRATCH)
	$(call step,notebooks at their defaults,$(PY) -m pytest -q --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=120 --durations=5 notebooks)
	@rm -rf $(SCRATCH)

gpu: $(STAMP)  ## a card for minutes: tests, benchmarks, whole runs: PLAN=multi30k_mini MINUTES=60
	@$(PY) -m workflow.gpu --plan $(PLAN) --minutes $(MINUTES) $(ARGS)

bench: $(STAMP)  ## speed of training, likelihood and decoding, beside the machine's own limit (minutes)
	@$(PY) -m benchmarks.training
	@$(PY) -m benchmarks.likelihood
	@$(PIP) -e '.[speed]' -c constraints.txt || echo 'no CTranslate2 here: decoding goes without it'
	@OMP_NUM_THREADS=1 $(PY) -m benchmarks.decoding
	@$(PY) scripts/fill_readme.py

gallery: $(STAMP)  ## outputs/README.md and the README's tables, from what lies in outputs/
	@$(PY) -m analysis.gallery
	@$(PY) scripts/fill_readme.py

notebooks: $(STAMP)  ## run every notebook in place, top to bottom, and clean its metadata
	@$(PY) scripts/run_notebooks.py

clean:  ## remove caches; keeps .venv, data/ and outputs/
	rm -rf cache .pytest_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -path ./data -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean  ## the same, and .venv
	rm -rf $(VENV)
