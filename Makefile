# Each target works alone on a machine with Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo run test check bench bench-full sim prices clean

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

bench: $(READY)
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.over_http
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.analytics
	$(BIN)/python -m benchmarks.sockets
	$(BIN)/python -m benchmarks.runtime

bench-full: bench
	$(BIN)/python -m benchmarks.scale --full
	$(BIN)/python -m benchmarks.sweep --full
	$(BIN)/python -m benchmarks.analytics --full
	$(BIN)/python -m benchmarks.memory

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
