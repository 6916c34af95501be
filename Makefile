# Copytrace: every command sets up what it needs the first time and skips that afterwards.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# Folder of the data, logs and keys of `make stack`.
STACK ?= stack
# Evaluation sets of `make bench`: folders with queries, references and ground_truth.csv; without any, sample media.
DATA ?=
# Device of `make gpu-check`: cuda, or cpu, which compares the CPU with itself.
DEVICE ?= cuda
# Number of test processes; each takes a core and up to 3 GB.
TESTERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
comma := ,
# `make EXTRAS=gpu,dev install` on a machine with an NVIDIA GPU. What .venv was installed with stays for later commands.
EXTRAS ?= $(or $(patsubst $(VENV)/.installed-%,%,$(firstword $(wildcard $(VENV)/.installed-*))),cpu$(comma)dev)
INSTALLED := $(VENV)/.installed-$(EXTRAS)
# Exact versions and hashes for these extras; `make lock` renews the locks of all the sets named here.
LOCK := locks/$(subst $(comma),-,$(EXTRAS)).txt
LOCKED ?= cpu,dev cpu,stack gpu,dev gpu,stack
FIRST_LOCK := locks/$(subst $(comma),-,$(firstword $(LOCKED))).txt
PIPS := 4
TOOLS := build/tools
COMPILE := $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
  --custom-compile-command 'make lock'
PIP := -m pip --disable-pip-version-check -qq
# faiss-cpu and faiss-gpu share one import name, as do onnxruntime and onnxruntime-gpu.
EXCLUSIVE := faiss-cpu faiss-gpu onnxruntime onnxruntime-gpu
OF_ALL_SERVERS := $(patsubst %,tests/integration/test_%.py,servers stack dask_hosts run_watch)
# The latter need root and namespaces, or take servers down.
FAULTS := tests/faults $(patsubst %,tests/integration/test_%.py,confined_services backup restarted_servers)

# Else each process of pytest would rewrite all tests anew, and each that tests start compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install lock licenses sbom audit demo stack postgresql chromium test test-stack test-faults bench bench-full gpu-check clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(INSTALLED) ## create .venv and install Copytrace into it (EXTRAS=gpu,dev for a GPU)

# A recent pip reads the registry's pages in half the time that the one of Python 3.11 takes. Each pip keeps one core
# busy, so several install a part of the lock each; without dependencies to resolve, none needs to know of the others.
$(INSTALLED): pyproject.toml $(LOCK) locks/pip.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Copytrace needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name another one: make PYTHON=python3.11 $(or $(firstword $(MAKECMDGOALS)),install)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "cannot make $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV): some minutes, once"
	@test -e $@ || $(BIN)/python $(PIP) uninstall --yes $(EXCLUSIVE)
	@rm -f $(VENV)/.installed-*
	@$(BIN)/python $(PIP) install --no-deps --require-hashes --requirement locks/pip.txt
	@parts=$$(mktemp -d); trap 'rm -rf "$$parts"' EXIT; \
	  awk -v parts="$$parts" '/^[a-z0-9]/ {n = (n + 1) % $(PIPS)} !/^#/ {print > (parts "/" n + 0)}' $(LOCK); \
	  ls "$$parts"/* | xargs -P $(PIPS) -I{} $(BIN)/python $(PIP) install --no-deps --require-hashes --no-compile -r {}
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true  # pip would on one core; some templates are no Python
	@touch $@

locks/%.txt:
	@echo "there is no lock for EXTRAS=$(EXTRAS); there are locks for: $(LOCKED)." \
	  "Take one of these, or add one: make LOCKED='$(LOCKED) $(EXTRAS)' lock" >&2; exit 1

# All sets begin with the versions of the first, so that they agree.
lock: $(TOOLS)/.installed ## renew the exact versions in locks/, within the ranges of pyproject.toml and locks/held.txt
	@for extras in $(LOCKED); do \
	  lock=locks/$${extras//,/-}.txt; \
	  [ $$lock = $(FIRST_LOCK) ] && upgrade=--upgrade || { cp $(FIRST_LOCK) $$lock; upgrade=; }; \
	  $(COMPILE) $$upgrade --constraint locks/held.txt --extra $${extras//,/ --extra } pyproject.toml --output-file $$lock; \
	  echo "$$lock: $$(grep -c '^[a-z].*==' $$lock) packages"; done
	@$(COMPILE) --upgrade locks/tools.in --output-file locks/tools.txt
	@echo pip | $(COMPILE) --upgrade - --output-file locks/pip.txt

$(TOOLS)/.installed: locks/tools.txt
	@echo "installing tools into $(TOOLS)"
	@$(PYTHON) -m venv $(TOOLS) && $(TOOLS)/bin/python $(PIP) install --no-deps --require-hashes --requirement $< && touch $@

licenses: $(INSTALLED) ## list the licenses of all locked packages in locks/LICENSES.md; refuse GPL and AGPL
	@$(BIN)/python -m tools.licenses

sbom: $(INSTALLED) $(TOOLS)/.installed ## write build/sbom.json, a CycloneDX list of the installed packages
	@$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON --output-file build/sbom.json && echo build/sbom.json

audit: $(TOOLS)/.installed ## check the locked versions for known vulnerabilities; fails if the database cannot be reached
	@for lock in $(sort $(foreach extras,$(LOCKED),locks/$(subst $(comma),-,$(extras)).txt)) locks/tools.txt; do \
	  echo "== $$lock"; $(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement $$lock; done

demo: $(INSTALLED) ## match edited copies of sample photographs and videos with the Prefect flows
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
chromium:
	@if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$$(id -u)" = 0 ] \
	    && command -v apt-get >/dev/null; then \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends chromium; } \
	    >/dev/null 2>&1 || echo "chromium could not be installed; the tests in a browser will be skipped"; fi

test: $(INSTALLED) chromium ## run all checks, and all tests except those of test-stack and test-faults
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	COPYTRACE_CORES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(TESTERS) --dist=loadfile \
	  $(addprefix --ignore=,$(OF_ALL_SERVERS) $(FAULTS))

test-stack: $(INSTALLED) postgresql ## run the tests that start all servers, or wait for them (about ten minutes)
	$(BIN)/python -m pytest $(OF_ALL_SERVERS)

test-faults: $(INSTALLED) ## alter files of all readers, decode hostile ones, kill runs, fill disks, flip bits, export, run for long (hours)
	$(BIN)/python -m pytest $(FAULTS) --capture=no
	COPYTRACE_EXPORTS=1 $(BIN)/python -m pytest tests/features/test_descriptors.py
	COPYTRACE_FLIPS=1000 $(BIN)/python -m pytest tests/test_damage.py --capture=no
	COPYTRACE_KILLS=10 $(BIN)/python -m pytest tests/test_killed_runs.py --capture=no
	COPYTRACE_PAIRS=200 $(BIN)/python -m pytest tests/test_concurrent_runs.py --capture=no
	for seed in 1 2 3; do COPYTRACE_STORE_FAULTS=1 COPYTRACE_SEED=$$seed $(BIN)/python -m pytest \
	  tests/integration/test_rough_store.py --capture=no || exit 1; done

bench: $(INSTALLED) ## measure speed, memory and accuracy into benchmarks/RESULTS.md (some minutes; DATA="SET SET")
	@$(BIN)/python -m benchmarks $(addprefix --data ,$(DATA))

bench-full: $(INSTALLED) ## the same, and what takes hours: growth to a million images, training, runners
	@$(BIN)/python -m benchmarks --full $(addprefix --data ,$(DATA))

gpu-check: $(INSTALLED) ## compare all that runs on a GPU with the CPU, and measure it (DEVICE=cpu where there is none)
	@$(BIN)/python -m benchmarks.gpu_check --device $(DEVICE)

clean: ## remove build files, the demo and the environment
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
