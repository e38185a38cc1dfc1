# Everything a checkout can do. Each target makes what it needs; see CONTRIBUTING.md.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
PYTHON := /usr/bin/python3

.PHONY: help deps link lint unit integration test exhaustive soak bench demo demo-clean build docs clean

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || grep '##' $(MAKEFILE_LIST)

deps: ## Install the Debian packages that are missing (as root)
	@tools/deps.sh requirements/demo.txt requirements/system.txt

link: ## Make this checkout importable as ansible_collections.vmforge.backup
	@$(PYTHON) tools/environments.py link

lint: deps ## Style, types, documentation, sanity, packaging
	@$(PYTHON) tools/check.py lint

unit: deps ## Unit tests under every supported Python found here
	@$(PYTHON) tools/check.py unit

integration: deps ## Real guests, real S3 servers, every supported ansible-core
	@$(PYTHON) tools/check.py integration

test: deps ## All of it: lint, unit, integration
	@$(PYTHON) tools/check.py lint unit integration

exhaustive: deps ## The cases that make test leaves out for time
	@tools/deps.sh requirements/exhaustive.txt
	@$(PYTHON) tools/environments.py exec -m pytest -q -m exhaustive tests/unit tests/integration
	@$(PYTHON) tools/check.py exhaustive
	@$(PYTHON) tools/docs.py

soak: deps ## Random campaigns against a guest: ROUNDS=20 or MINUTES=, SEED=
	@$(PYTHON) tools/environments.py exec -m tests.soak.soak

bench: deps ## Speed against others and against the machine's limits: ROUNDS=5, SIZE=4 (GiB)
	@tools/deps.sh requirements/bench.txt
	@$(PYTHON) tools/environments.py exec -m tests.bench.bench

demo: ## Back up a running guest of its own, and prove the copy
	@tools/deps.sh requirements/demo.txt
	@$(PYTHON) demo run

demo-clean: ## Remove everything that the demo made
	@$(PYTHON) demo clean

build: deps ## The collection's archive, in build/
	@$(PYTHON) tools/check.py build

docs: deps ## The documentation site, in build/docs
	@$(PYTHON) tools/docs.py

clean: ## Remove virtual environments, caches and archives of this checkout
	rm -rf .venv .venv-* .cache .collections .ansible build tests/output .mypy_cache .ruff_cache .pytest_cache .hypothesis
