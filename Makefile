# Everything from a bare checkout: `make demo` shows the main job, `make test` runs all tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-pi check wheel docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "EdgeExit needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## train, export, calibrate and sweep a three-exit network on real handwritten digits
	$(BIN)/edgeexit demo --out demo-out

test: setup  ## all tests
	$(BIN)/python -m pytest -q

test-pi: setup  ## a shipped bundle in an arm64 user space under emulation, as on Pi 3, 4 and 5; skips without the tools
	$(BIN)/python scripts/test_pi.py $(PI)

check: setup  ## lint, types, import contracts
	BIN=$(BIN) scripts/check

wheel: setup  ## build the wheel and test the device side from it in an empty environment
	PYTHON=$(PYTHON) BIN=$(BIN) scripts/wheel

docs: setup  ## rewrite the generated pages
	$(BIN)/python scripts/cli_docs.py --write

clean:
	rm -rf $(VENV) demo-out dist build
