# Every target makes .venv by itself. Needed beforehand: make, and Python 3.11 or newer.

PY := .venv/bin/python
# Named after this folder, so that a checkout copied together with its .venv makes a new one.
STAMP := .venv/.installed-$(shell pwd | cksum | cut -d ' ' -f 1)

# The two clients of the event store cannot share an environment, so its tests run in two.
KURRENTDB_STAMP := $(subst .venv/,.venv-kurrentdb/,$(STAMP))
EVENT_STORE_TESTS := tests/contract/test_eventstoredb.py tests/unit/stores/eventstoredb \
	tests/integration/eventstoredb tests/integration/esdb tests/acceptance/test_store_faults.py

# What the checkers look at. A folder that does not exist yet is left out.
CODE := $(wildcard src examples benchmarks tests scripts)

.PHONY: help demo test test-compose check format lint types imports house fix bench soak mutants lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

$(STAMP): pyproject.toml requirements.lock scripts/make-venv
	@scripts/make-venv
	@touch $@

$(KURRENTDB_STAMP): pyproject.toml requirements-kurrentdb.lock scripts/make-venv
	@VENV=.venv-kurrentdb LOCK=requirements-kurrentdb.lock scripts/make-venv dev-kurrentdb
	@touch $@

demo: $(STAMP) ## Run the payments example; FILE=pain001.xml pays your own file
	@$(PY) -m examples.payments $(if $(FILE),--file "$(FILE)")

test: $(STAMP) $(KURRENTDB_STAMP) ## Run every test; installs RabbitMQ and PostgreSQL if they are missing
	@scripts/install-rabbitmq
	@scripts/install-postgresql
	$(PY) -m pytest tests
	.venv-kurrentdb/bin/python -m pytest $(EVENT_STORE_TESTS) -k "not in_memory and not in_a_file"

test-compose: $(STAMP) ## Run the contract and acceptance tests against the servers of compose/, in Docker
	@scripts/test-compose $(PY)

# One target per check, so that `make --keep-going check` reports everything that is wrong.
check: format lint types imports house ## Check the format, lint, types, imports, sizes and documents

format: $(STAMP)
	$(PY) -m ruff format --check $(CODE)

lint: $(STAMP)
	$(PY) -m ruff check $(CODE)

types: $(STAMP)
	$(PY) -m mypy $(CODE)

# Without its cache, which misses that a module was added or removed.
imports: $(STAMP)
	.venv/bin/lint-imports --no-logo --no-cache

# Sizes, dead code, the code blocks of the documents, and the types that users see.
house: $(STAMP)
	$(PY) -m pytest --quiet tests/house tests/docs tests/typing

fix: $(STAMP) ## Let ruff format the code and repair what it can
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

bench: $(STAMP) ## Run the benchmarks; WORKLOADS="W1 W7/hold" and REPEATS choose which and how often
	@$(PY) -m benchmarks.run

soak: $(STAMP) ## Run a day of virtual time; N is how many transfers, 1000000
	@$(PY) -m benchmarks.soak

# Hours for all of it. An extra of its own: nothing else here needs the mutation tester.
mutants: $(STAMP) ## Break the engine on purpose and see what tests miss; MODULES, SAMPLE, SEED choose
	@scripts/make-venv dev,mutants
	@$(PY) scripts/mutants.py

lock: ## Resolve the newest versions into requirements.lock
	scripts/make-lock

clean: ## Remove .venv, caches and build results
	rm -rf .venv .venv-kurrentdb mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
