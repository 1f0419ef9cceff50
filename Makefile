# make demo, test, lint, docs, bench, build, clean; see docs/installation.md.
#
# TORCH_INDEX: a further package index, for a CPU build of torch where the default one is not.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
INPUTS := pyproject.toml constraints.txt

export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: help demo test lint docs bench build clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train, attack and plot a small team (examples/quickstart.py)"
	@echo "make test    run the tests"
	@echo "make lint    ruff, mypy, import contracts, spelling"
	@echo "make docs    build the documentation into docs/_build/html"
	@echo "make bench   run the benchmarks"
	@echo "make build   sdist and wheel into dist/"
	@echo "make clean   remove what was built, .venv included"

demo: $(VENV)/.run  # make demo ARGS="--env spread"
	$(PY) examples/quickstart.py $(ARGS)

test: $(VENV)/.dev
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) -m codespell_lib

docs: $(VENV)/.dev
	$(PY) -m sphinx -n -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.run
	@set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(PY) $$script; done

build: $(VENV)/.dev
	$(PY) -m build --outdir dist .

clean:
	rm -rf $(VENV) build dist docs/_build docs/jupyter_execute
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "robustmarl needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>/dev/null || echo missing). Try: make PYTHON=python3.11" >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
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
