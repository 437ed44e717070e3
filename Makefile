# make reproduce, make test and make notebook do all of their own set-up (tools/env.sh).

SHELL := /bin/bash
ENV := tools/env.sh
PROFILE ?= quick
ARGS ?=
# Two files at a time, each with one thread: more would wait for each other most of the time.
TWO := -n 2 --dist loadfile
ALONE := OMP_NUM_THREADS=1

# Real image series are read from DRRLIB_DATA; a folder beside the checkout is used unasked.
ifndef DRRLIB_DATA
ifneq ($(wildcard ../shared/data/.),)
export DRRLIB_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help setup reproduce report notebook test lint update docs clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce              run every notebook, quick (PROFILE=full: the paper's sizes)"
	@echo "make report                 only the page that gathers results (PROFILE=full: the committed ones)"
	@echo "make test                   lint, unit tests, and every notebook compared with its stored output"
	@echo "make notebook N=01          run one notebook (PROFILE=full, ARGS='-p seed 3')"
	@echo "make update [N=01]          run quick without a GPU and store the outputs in notebooks/"
	@echo "make lint                   ruff only"
	@echo "make docs                   the site of the documentation, in site/"
	@echo "make setup                  only make the environment"
	@echo "make clean                  remove .venv, caches and quick results"

setup:
	@$(ENV) python -c "import sys; print('environment:', sys.prefix)"

reproduce:
	@$(ENV) python tools/run_notebooks.py --profile $(PROFILE) --report $(ARGS)

report:
	@$(ENV) python tools/report_page.py --profile $(PROFILE)

notebook:
	@test -n "$(N)" || { echo "which one? make notebook N=01" >&2; exit 2; }
	@$(ENV) python tools/run_notebooks.py $(N) --profile $(PROFILE) $(ARGS)

update:
	@$(ENV) python tools/run_notebooks.py $(N) --update

lint:
	@$(ENV) python -m ruff check . && $(ENV) python -m ruff format --check .

# MkDocs and its kin are installed by this target alone.
docs: setup
	@$(ENV) python -m pip install -q --disable-pip-version-check -r docs/requirements.txt
	@NO_MKDOCS_2_WARNING=1 $(ENV) python -m mkdocs build --strict
	@echo "site/index.html"

# Every step runs, whatever the others say; any failure makes the whole fail.
# The notebooks are compared without a GPU, as their stored outputs were made.
test: setup
	@status=0; failed() { status=1; echo "make test: $$1 failed" >&2; }; \
	$(MAKE) --no-print-directory lint || failed "ruff"; \
	$(ALONE) $(ENV) python -m pytest $(TWO) --durations=15 || failed "pytest tests"; \
	$(ALONE) NUMBA_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= \
		$(ENV) python -m pytest $(TWO) --nbval-lax --nbval-current-env notebooks \
		|| failed "pytest notebooks"; \
	exit $$status

clean:
	rm -rf .venv .setup-stamp .setup-lock results/quick build site *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
