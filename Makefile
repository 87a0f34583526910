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
EXTRAS := test,grid

PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check

CACHE := $(or $(DISCREPANCY_CACHE),$(CURDIR)/cache)
# A container's user may have no name, and no home that can be written; Jupyter and Snakemake ask.
ifeq ($(or $(LOGNAME),$(USER),$(shell id -un 2>/dev/null)),)
export LOGNAME := $(shell id -u)
endif
ifneq ($(shell [ "$$HOME" != / ] && [ -w "$$HOME" ] && echo home),home)
export HOME := $(CACHE)/home
$(shell mkdir -p "$(CACHE)/home")
endif

# $(call step,message,command): says what happens, then how long it took.
define step
@printf '==> %s\n' "$(1)"; start=$$(date +%s); $(2) && \
	printf '    done in %d s\n' $$(( $$(date +%s) - start ))
endef

# The grid: make grid DATASET=toy SCALE=smoke MODELS="tr_s ga_b" TRAIN_DATA="raw distilled" SEEDS="1 2"
DATASET ?= toy
SCALE ?= smoke
export OVERRIDES  # by the environment, as it may hold quotes
GRID = --dataset $(DATASET) --scale $(SCALE) $(if $(MODELS),--models $(MODELS)) \
	$(if $(TRAIN_DATA),--train-data $(TRAIN_DATA)) $(if $(STUDENTS),--students $(STUDENTS)) \
	$(if $(SEEDS),--seeds $(SEEDS)) \
	$(if $(SEEDED),--seeded $(SEEDED)) $(if $(SEEDED_DATA),--seeded-data $(SEEDED_DATA)) \
	$(if $(ACCOUNTINGS),--accountings $(ACCOUNTINGS)) $(if $(OVERRIDES),--overrides "$$OVERRIDES") \
	$(if $(PROCESSES),--processes $(PROCESSES)) $(if $(CORES),--cores $(CORES)) \
	$(if $(SLURM),--profile workflow/profiles/slurm) $(if $(PROFILE),--profile "$(PROFILE)") \
	$(if $(GPUS),--gpus $(GPUS)) $(if $(LIST),--list)

# The demo: a model of each family on raw text, the paper's three on distilled text, too. Minimum
# Bayes risk, which takes longer than the trainings, is left to the grid.
FAMILIES := tr_s ga_b fl_s na_b da_b ct_b md_b
PAPERS := tr_s ga_b fl_s

# make gpu PLAN=multi30k_mini MINUTES=9 ARGS="--side-by-side 8 --archive results"
PLAN ?= multi30k_mini
MINUTES ?= 60

.PHONY: help demo grid gpu slurm-test test lint unit nbval bench gallery notebooks clean distclean

help:  ## this list
	@printf 'make TARGET, where TARGET is one of\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nThe first one builds .venv (about two minutes and, with CUDA, a few gigabytes).\n'

$(STAMP): pyproject.toml constraints.txt
	@PYTHON='$(PYTHON)' TORCH='$(TORCH)' EXTRAS='$(EXTRAS)' bash scripts/environment.sh

# The stamp holds the folder of the clone that it was built for: not this one where it was moved.
ifneq ($(shell cat $(VENV)/.installed 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
FORCE:
endif

demo: $(STAMP)  ## the experiment on the toy corpus with a model a family: tables, figures (minutes)
	@$(PY) -m workflow.grid --models $(FAMILIES) --students $(PAPERS) \
		--overrides '{mbr_samples: 0}'
	@$(PY) scripts/fill_readme.py

grid: $(STAMP)  ## every model on raw and distilled text: DATASET=toy SCALE=smoke SLURM=1 LIST=1 (hours)
	@$(PY) -m workflow.grid $(GRID)
	@$(if $(LIST),,$(PY) scripts/fill_readme.py)

test: lint unit nbval  ## linter, tests, every notebook (minutes); what .ci/run calls

lint: $(STAMP)  ## the linter alone (seconds)
	$(call step,linter,$(PY) -m ruff check .)

unit: export OMP_NUM_THREADS = 1
unit: export TQDM_DISABLE = 1
# a file's tests stay in one process: they share what its fixtures make; files in conftest's order
unit: $(STAMP)  ## the tests in tests/ alone, on all cores (minutes); ARGS="-k flows" picks some
	$(call step,tests of the modules and of the repository,\
		$(PY) -m pytest -q --durations=5 --numprocesses=auto --dist=loadfile \
		--no-loadscope-reorder $(ARGS))

nbval: export OMP_NUM_THREADS = 1
nbval: export TQDM_DISABLE = 1
nbval: $(STAMP)  ## every notebook, run and compared with its committed outputs (minutes)
	$(call step,notebooks at their defaults,$(PY) -m pytest -q --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=120 --durations=5 --numprocesses=auto --dist=loadfile notebooks)

gpu: $(STAMP)  ## a card for minutes: tests, benchmarks, whole runs: PLAN=multi30k_mini MINUTES=60
	@$(PY) -m workflow.gpu --plan $(PLAN) --minutes $(MINUTES) $(ARGS)

slurm-test: $(STAMP)  ## the grid under a SLURM of one node, killed and resumed (ten minutes)
	@PY=$(PY) bash workflow/slurm_test.sh

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
