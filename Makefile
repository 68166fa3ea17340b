# Linux and macOS, Python 3.11 or newer. Everything lands in .venv; another Python: make PYTHON=python3.12 demo
# pip takes PyTorch from where it is told to. For the small CPU build on Linux:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# Threads that wait should sleep: spinning ones slow every other process down.
export OMP_WAIT_POLICY = passive

.PHONY: help demo test check mutants audit clean

help:
	@echo "make demo     continue videos with the shipped model and train a toy one; then open demo/index.html"
	@echo "make test     check every claim of this project"
	@echo "make check    style, types and layers"
	@echo "make mutants  plant bugs and require the tests to find them"
	@echo "make audit    known vulnerabilities of what is installed; asks the network"
	@echo "make clean    delete the environment and what was made"

demo: $(INSTALLED)
	$(BIN)/magi demo --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants.run

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[audit]"
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[^ ]*$$//' > .venv/audited.txt
	$(BIN)/python -m pip_audit --strict --disable-pip --no-deps --requirement .venv/audited.txt

clean:
	rm -rf .venv demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("magi needs Python 3.11 or newer, this is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@
