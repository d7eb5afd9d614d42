# `make run` and `make test` do all the set-up themselves on a fresh machine.
PYTHON ?= python3
BIN = .venv/bin
SPACE ?= search_spaces/lstm.yaml

.PHONY: run test test-all check clean

run: .venv/ready
	$(BIN)/sweeper run $(SPACE)

test: check
	$(BIN)/python -m pytest

test-all: check
	$(BIN)/python -m pytest -m ""

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
