# Every target makes .venv by itself. Needed beforehand: make, and Python 3.11 or newer.

PY := .venv/bin/python
# Named after this folder, so that a checkout copied together with its .venv makes a new one.
STAMP := .venv/.installed-$(shell pwd | cksum | cut -d ' ' -f 1)

.PHONY: help demo test check bench lock clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

$(STAMP): pyproject.toml requirements.lock scripts/make-venv
	@scripts/make-venv
	@touch $@

demo: $(STAMP) ## Run the payments example; FILE=pain001.xml pays your own file
	@$(PY) -m examples.payments $(if $(FILE),--file "$(FILE)")

test: $(STAMP) ## Run every test
	$(PY) -m pytest tests

bench: $(STAMP) ## Run the benchmarks; WORKLOADS and REPEATS choose which and how often
	@$(PY) -m benchmarks.run

lock: ## Resolve the newest versions into requirements.lock
	scripts/make-lock

clean: ## Remove .venv, caches and build results
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
