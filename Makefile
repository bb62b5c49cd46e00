# The one way in: what a person types, what the README says and what is run before every merge are the same words.
# Every target makes the environment first when it is missing or older than the locks.

PYTHON ?= python3
UPGRADE ?=
# Files of tests that run side by side: they wait for leases and starts more than they compute.
TEST_WORKERS ?= 6

VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
CONTRACT := protos/ssnvault/v1/ssn_vault.proto
BASELINE := protos/baseline.binpb

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv --quiet pip compile --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links $(UPGRADE)
# $(call generate,DIR): the contract's Python code into DIR.
generate = $(BIN)/python -m grpc_tools.protoc --proto_path=protos \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(CONTRACT)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run demo test bench lint proto baseline lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv with server, client and development tools, from the hashed lock
	@echo "ready: $(VENV)"

run: $(INSTALLED) ## Start the whole stack on this machine, data in .home/dev, until Ctrl-C
	@$(BIN)/ssn-vault dev --home .home/dev

demo: $(INSTALLED) ## Do the main job on two sample rosters in a scratch home, each step shown
	@$(BIN)/ssn-vault demo

test: $(INSTALLED) ## Run the tests, on real OpenBao, SQLite and PostgreSQL
	@$(BIN)/pytest --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

bench: $(INSTALLED) ## Measure speed against its floors; prints a table and writes bench.json
	@$(BIN)/python -m tests.benchmarks

lint: $(INSTALLED) ## Check style, types, import directions and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(BASELINE)
	@echo "is the generated code fresh?"; fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call generate,$$fresh) && \
	for made in "$$fresh"/ssnvault/v1/*; do \
		diff -u "protos/ssnvault/v1/$${made##*/}" "$$made" || { echo "stale: run 'make proto'" >&2; exit 1; }; \
	done && echo "generated code is fresh"

proto: $(INSTALLED) ## Generate the Python code of the contract anew
	$(call generate,protos)

baseline: $(INSTALLED) ## At a release: the contract as it is now becomes what `lint` holds later ones to
	$(BIN)/buf breaking --against $(BASELINE)
	$(BIN)/buf build --exclude-source-info --output $(BASELINE)

lock: $(INSTALLED) ## Pin the dependencies of requirements/*.in anew (UPGRADE=--upgrade takes newer versions)
	$(COMPILE) requirements/dev.in --output-file requirements/dev.txt
	$(COMPILE) --constraint requirements/dev.txt requirements/test.in --output-file requirements/test.txt
	$(COMPILE) --constraint requirements/dev.txt requirements/server.in --output-file requirements/server.txt

clean: ## Remove everything that was made, except the data in .home
	rm -rf $(VENV) build bench.json .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf *.egg-info protos/build protos/*.egg-info clients/python/build clients/python/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made from nothing when the lock changes, so that nothing of an older lock stays behind.
$(LOCKED): requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "ssn-vault needs Python 3.11 or later, and '$(PYTHON)' is not one;" \
			"name another: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "making $(VENV) from requirements/dev.txt: a few hundred megabytes, a minute or more"
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "'$(PYTHON)' cannot make virtual environments; some systems ship that part as python3-venv" >&2; exit 1; }
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml protos/pyproject.toml clients/python/pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable protos --editable clients/python --editable .
	@touch $@
