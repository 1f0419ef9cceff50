# make demo, test, test-lowest, lint, docs, bench, build, clean; see docs/installation.md.
#
# TORCH_INDEX: a further package index, for a CPU build of torch where the default one is not.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
INPUTS := pyproject.toml constraints.txt
LOWEST := .venv-lowest

export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: help demo test test-lowest lint docs bench build clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train, attack and plot a small team (examples/quickstart.py)"
	@echo "make test    run the tests"
	@echo "make test-lowest   the same with the lowest versions of everything (own environment)"
	@echo "make lint    ruff, mypy, import contracts, spelling"
	@echo "make docs    build the documentation into docs/_build/html; many pages are executed, which takes"
	@echo "             minutes: ARGS='-D nb_execution_mode=off' leaves their outputs out"
	@echo "make bench   run the benchmarks"
	@echo "make build   sdist and wheel into dist/"
	@echo "make clean   remove what was built, .venv included"

demo: $(VENV)/.run  # make demo ARGS="--env spread"
	$(PY) examples/quickstart.py $(ARGS)

test: $(VENV)/.dev
	$(PY) -m pytest $(ARGS)

test-lowest: $(LOWEST)/.test
	$(LOWEST)/bin/python -m pytest tests -p no:warnings $(ARGS)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) -m codespell_lib

docs: $(VENV)/.dev
	$(PY) -m sphinx -n -W --keep-going -b html $(ARGS) docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.run
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(PY) $$script; done

build: $(VENV)/.dev
	$(PY) -m build --outdir dist .

clean:
	rm -rf $(VENV) $(LOWEST) build dist docs/_build docs/api docs/jupyter_execute
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "robustmarl needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo missing). Try: make PYTHON=python3.11" >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# old releases warn of what newer ones have mended, so that warnings are no errors there
$(LOWEST)/.test: pyproject.toml constraints-lowest.txt
	@echo "creating $(LOWEST) and installing the lowest versions (minutes, gigabytes)"
	@$(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip --disable-pip-version-check install --quiet $(INDEX) \
	  -c constraints-lowest.txt -e '.[mpe,foraging,highway,magent,supersuit,video,test]'
	@touch $@

# torch is resolved together with all else, so that the constraint and the index apply to it
$(VENV)/.run: $(VENV)/.venv $(INPUTS)
	@echo "installing robustmarl[all] (minutes, the first time)"
	@$(PIP) $(INDEX) -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.venv $(INPUTS)
	@echo "installing robustmarl[dev] (minutes, the first time)"
	@$(PIP) $(INDEX) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run
