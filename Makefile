# Everything that is done with a checkout. `make` alone lists it.

PYTHON ?= python3
AZURITE_VERSION := 3.35.0
MINISTACK_VERSION := 1.5.33

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet --retries 10 --timeout 60
PIP := $(BIN)/python $(PIP_INSTALL)
# mkfs and losetup live there, where only root's PATH looks.
export PATH := $(PATH):/usr/sbin:/sbin
# Compiled once: every test worker imports all tests, and every command that a test runs all of src.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- what is installed, each behind a stamp that is written when all of it succeeded ------------------------

$(VENV)/stamp-run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo 'Python 3.11 or newer is needed: install python3, or say make PYTHON=/path/to/python'; exit 1; }
	@test -x $(BIN)/python || { PYTHON='$(PYTHON)' scripts/system-packages venv && $(PYTHON) -m venv $(VENV); }
	$(PIP) 'pip>=25.1'
	$(PIP) --editable '.[fast]'
	@touch $@

$(VENV)/stamp-check: $(VENV)/stamp-run
	$(PIP) --group dev --group peers
	@touch $@

.cache/azurite/stamp-$(AZURITE_VERSION):
	npm install --prefix .cache/azurite --no-audit --no-fund --loglevel=error \
		--fetch-retries=5 --fetch-timeout=60000 azurite@$(AZURITE_VERSION)
	@touch $@

# An environment of its own: it is pinned to a botocore that is older than ours.
.cache/ministack/stamp-$(MINISTACK_VERSION): $(VENV)/stamp-run
	$(BIN)/python -m venv --clear .cache/ministack
	.cache/ministack/bin/python $(PIP_INSTALL) ministack==$(MINISTACK_VERSION)
	@touch $@

.PHONY: venv
venv: $(VENV)/stamp-check ## the virtual environment, with what developers need

.PHONY: system-packages
system-packages: ## Debian packages that the tests need (as root; otherwise says which are missing)
	@PYTHON='$(PYTHON)' scripts/system-packages run test

.PHONY: azurite
azurite: .cache/azurite/stamp-$(AZURITE_VERSION) ## the Azure emulator, for the tests

.PHONY: ministack
ministack: .cache/ministack/stamp-$(MINISTACK_VERSION) ## MiniStack, an emulator of S3, for the tests

.PHONY: wiredtiger
wiredtiger: $(VENV)/stamp-check system-packages ## WiredTiger, for the tests: ten minutes, once for each version and machine
	@nice $(BIN)/python tests/wiredtiger_bridge/wheel.py

# --- use ----------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/stamp-run ## the whole story on an embedded bucket, in under a minute
	@scripts/system-packages run || true
	@$(BIN)/bucketry demo

# --- the quick gate -----------------------------------------------------------------------------------------

.PHONY: check
check: $(VENV)/stamp-check ## format, lint, types, layers, fast tests: under a minute
	@$(MAKE) --no-print-directory --jobs --output-sync=target check-format check-lint check-types check-tests

.PHONY: check-format check-lint check-types check-tests
check-format:
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
check-lint:
	@$(BIN)/ruff check --quiet .
check-types:
	@$(BIN)/mypy
check-tests:
	@$(BIN)/pytest --quiet --numprocesses=auto --dist=worksteal -m 'not system and not slow'

.PHONY: format
format: $(VENV)/stamp-check ## format the code and mend what can be mended by rule
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

# --- all tests ----------------------------------------------------------------------------------------------

# Tests of servers and mounts wait half of their time: more workers than processors.
PYTEST := $(BIN)/pytest
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) * 2 )))
# The order is that of tests/conftest.py, long ones first, handed out a few at a time. WiredTiger is built beside
# them, when it has to be; the tests that need it are told when it is there.
define run-all-tests
	@$(MAKE) --no-print-directory azurite ministack
	@$(MAKE) --no-print-directory wiredtiger & build=$$!; status=0; \
		$(PYTEST) --numprocesses=$(WORKERS) --dist=load --maxschedchunk=4 $(1) || status=$$?; \
		wait $$build || { echo 'WiredTiger was not built: see above'; status=1; }; exit $$status
endef

.PHONY: test
test: $(VENV)/stamp-check system-packages ## everything, with real servers and mounts: 15 minutes and, once, 10 to build WiredTiger
	$(call run-all-tests,$(ARGS))

.PHONY: test-full
test-full: $(VENV)/stamp-check system-packages ## the same with many more random examples
	$(call run-all-tests,--hypothesis-profile=full $(ARGS))

# Of every process that the tests start, too. ARGS='-m "not system"' is what needs nothing but this package.
.PHONY: coverage
coverage: export COVERAGE_FILE := $(CURDIR)/.cache/coverage/data
coverage: PYTEST := $(BIN)/coverage run -m pytest
coverage: $(VENV)/stamp-check system-packages ## the same as test, with the line and branch coverage of src: twice the time
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	$(call run-all-tests,$(ARGS))
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

# How often the serving process is killed.
ROUNDS ?= 200
SEED ?= 1

.PHONY: crash
crash: $(VENV)/stamp-check system-packages ## kill the serving process ROUNDS=200 times under load
	BUCKETRY_CRASH_ROUNDS=$(ROUNDS) BUCKETRY_CRASH_SEED=$(SEED) $(BIN)/pytest tests/crash/test_crash.py $(ARGS)

.PHONY: unusual-hands
unusual-hands: $(VENV)/stamp-check system-packages ## kill it ROUNDS=200 times, and attach as nobody should after each
	BUCKETRY_CRASH_ROUNDS=$(ROUNDS) BUCKETRY_CRASH_SEED=$(SEED) $(BIN)/pytest tests/crash/test_unusual_hands.py $(ARGS)

# How long the bucket is away.
SECONDS ?= 300

.PHONY: outage
outage: $(VENV)/stamp-check system-packages ## the bucket away for SECONDS=300 under load, in each way: 45 minutes
	BUCKETRY_OUTAGE_SECONDS=$(SECONDS) $(BIN)/pytest tests/crash/test_outages.py $(ARGS)

SEEDS ?= 1..1000

.PHONY: sim
sim: $(VENV)/stamp-check ## simulate machines under faults, on all processors: make sim SEEDS=1..10000
	@$(BIN)/python -m bucketry.testing.simulation --seeds $(SEEDS) $(ARGS)

# --- benchmarks ---------------------------------------------------------------------------------------------

.PHONY: bench-quick
bench-quick: $(VENV)/stamp-check system-packages ## the figures of docs/benchmarks.md, three rounds
	PYTHONPATH=tests $(BIN)/python -m bench --rounds 3 $(ARGS)

.PHONY: bench
bench: $(VENV)/stamp-check system-packages ## the same, nine rounds
	PYTHONPATH=tests $(BIN)/python -m bench --rounds 9 $(ARGS)

.PHONY: bench-eviction
bench-eviction: $(VENV)/stamp-check ## hit rates of the replacement policies (docs/decisions/0011-replacement.md)
	PYTHONPATH=tests $(BIN)/python -m bench.eviction

.PHONY: clean
clean: ## remove everything that make made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results dist build
