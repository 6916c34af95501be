# Copytrace: every command sets up what it needs the first time, and skips that afterwards.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# `make EXTRAS=gpu,dev install` on a machine with an NVIDIA GPU.
EXTRAS ?= cpu,dev
# Where `make stack` keeps data, logs and keys.
STACK ?= stack
# Processes that tests run in; each takes a core, and up to 3 GB.
TESTERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(EXTRAS)
OF_ALL_SERVERS := tests/integration/test_servers.py tests/integration/test_stack.py

.PHONY: help install demo stack postgresql test test-stack bench clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(INSTALLED) ## create .venv and install Copytrace into it (EXTRAS=gpu,dev for a GPU)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Copytrace needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name another one: make PYTHON=python3.11 $(or $(firstword $(MAKECMDGOALS)),install)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "cannot make $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV): some minutes, once"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installed-* && touch $@

demo: $(INSTALLED) ## match edited copies of sample photographs and videos, through the Prefect flows
	@$(BIN)/python -m flows.demo --out demo

stack: $(INSTALLED) postgresql ## start all servers and workers on this machine, without Docker, until Ctrl-C
	@exec $(BIN)/copytrace stack --folder $(STACK)

# PostgreSQL does not come from PyPI, as the other servers do.
postgresql:
	@if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && ! command -v postgres >/dev/null \
	    && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing PostgreSQL"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends postgresql; } \
	    >/dev/null 2>&1 || true; fi

# The report's pages are looked at in a real browser. Without one those tests are skipped, and say so.
test: $(INSTALLED) ## run all checks, and all tests but those of test-stack
	@if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$$(id -u)" = 0 ] \
	    && command -v apt-get >/dev/null; then \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium; } \
	    >/dev/null 2>&1 || echo "chromium could not be installed; the tests in a browser will be skipped"; fi
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(TESTERS) --dist=loadgroup $(addprefix --ignore=,$(OF_ALL_SERVERS))

test-stack: $(INSTALLED) postgresql ## run the tests that start all servers: some ten minutes
	$(BIN)/python -m pytest $(OF_ALL_SERVERS)

bench: $(INSTALLED) ## measure speed and accuracy against named peers
	@for name in $(basename $(notdir $(wildcard benchmarks/*.py))); do echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; done

clean: ## remove what was built, the demo and the environment
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
