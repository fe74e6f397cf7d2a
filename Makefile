# Each target works alone on a machine with Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo run test check fuzz faults history audit bench bench-full profile sim prices clean

demo: $(READY)
	$(BIN)/ironcage demo

run: $(READY)
	$(BIN)/ironcage serve

test: $(READY)
	$(BIN)/python -m pytest -q -n auto

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(READY)
	$(BIN)/python -m pytest -q -n auto --timeout 3600 tests/fuzz --hypothesis-profile=fuzz

faults: $(READY)
	$(BIN)/python -m tests.faults.suite --cycles $(or $(CYCLES),50)

history: $(READY)
	$(BIN)/python -m tests.history.record --clients 64 --servers 2 --seconds $(or $(DURATION),30)

audit: $(READY)
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

bench: $(READY)
	$(BIN)/python -m benchmarks.all

bench-full: $(READY)
	$(BIN)/python -m benchmarks.all --full

profile: $(READY)
	$(BIN)/python -m benchmarks.profile --path $(or $(WHAT),report)

sim: $(READY)
	$(BIN)/python -m tests.simulation.long --minutes $(or $(MINUTES),10)

prices: $(READY)
	$(BIN)/python scripts/update_prices.py

clean:
	rm -rf $(VENV) build dist bench-results

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
