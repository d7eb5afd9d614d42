# `make run` and `make test` set up everything they need, also on a fresh machine.
PYTHON ?= python3
BIN = .venv/bin
SPACE ?= search_spaces/lstm.yaml

.PHONY: run test test-all test-faults test-k8s check audit clean

run: .venv/ready
	$(BIN)/sweeper run $(SPACE)

# Most tests wait for processes to start and end, so three run at a time; those of one file run in order.
AT_A_TIME = --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: check
	$(BIN)/python -m pytest $(AT_A_TIME)

test-all: check
	$(BIN)/python -m pytest $(AT_A_TIME) -m "not faults and not k8s"

# Prints the table of docs/reliability.md; `make test-faults SEEDS="--seed 4"` replays one seed.
SEEDS ?= --seed 1 --seed 2 --seed 3
test-faults: .venv/ready
	$(BIN)/python -m pytest tests/faults -m faults $(SEEDS) --junitxml=faults.xml
	$(BIN)/python -m tests.faults.table faults.xml

# On the cluster of KUBECONFIG, with the image SWEEPER_K8S_IMAGE; tests/k8s/live/conftest.py describes the other variables.
test-k8s: .venv/ready
	$(BIN)/python -m pytest tests/k8s/live -m k8s --capture=no

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Queries a public database of known vulnerabilities, so it needs the internet. With --strict, a package that cannot be
# checked is a failure.
audit: .venv/audit/ready
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

.venv/audit/ready:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet 'pip-audit>=2.9,<3'
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
