# `make demo` and `make test` need Python 3.11 or later and make.
# The tests against real servers also need Go, etcd, prometheus, systemd-analyze and chromium.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHON_IS = $(shell $(PYTHON) -c 'import sys; print("ok" if sys.version_info >= (3, 11) else sys.version.split()[0])')

.PHONY: help install demo test test-pythons servers lint site release simulate-long kills bench lock clean

help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED)  ## create .venv from the locked requirements

$(INSTALLED): requirements-dev.txt pyproject.toml
	$(if $(filter ok,$(PYTHON_IS)),,$(error rotator needs Python 3.11 or later, and $(PYTHON) is $(or $(PYTHON_IS),missing): \
	  name another, as in `make install PYTHON=python3.12`))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install    ## watch keys being created, published, superseded and removed; no outside service
	@$(BIN)/rotator demo

# The tests on real servers mostly wait: four workers run them, a file at a time, each with servers of its own. They
# come first: a slow file at the end would leave the other workers idle.
# The simulation computes, and gives way to them; its output comes last.
test: install servers  ## the whole suite; without Go, skip the tests that need a real server
	@nice $(BIN)/python -m pytest -n auto --dist worksteal tests/simulation >$(VENV)/simulation.log 2>&1 & simulation=$$!; \
	trap 'kill $$simulation 2>/dev/null' EXIT INT TERM; \
	status=0; \
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --ignore=tests/simulation || status=$$?; \
	wait $$simulation || status=$$?; \
	cat $(VENV)/simulation.log; \
	exit $$status

test-pythons: install  ## run the unit tests on each Python from 3.11 to 3.14 that this machine has
	@$(BIN)/python -m tools.pythons

servers: install  ## build the real servers and tools that the tests run (about 20 minutes, once)
	@$(BIN)/python tools/build_servers.py

lint: install    ## run ruff, mypy strict, the import rules and hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

site: install    ## build the documentation site in site/; a broken link stops it
	@$(BIN)/python -m tools.build_site

release: install  ## build a release from the committed files in dist/ (KEY=FILE signs it; docs/releasing.md)
	@$(BIN)/python -m tools.release $(if $(KEY),--key $(KEY))

simulate-long: install  ## run new schedules of the protocol until you stop it (SEED=0 is the first)
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m simulation $(or $(SEED),0) --many 0

kills: install servers  ## kill and freeze two daemons 200 times each on a real Vault, with and without caps (ROTATOR_KILLS=200)
	ROTATOR_KILLS=$${ROTATOR_KILLS:-200} $(BIN)/python -m pytest tests/integration/test_kills.py tests/integration/test_spending_kills.py -s

BENCHMARKS ?= startup run_once layers scale punctuality caps soak

bench: install servers  ## measure everything in docs/benchmarks.md (about 100 minutes; BENCHMARKS=soak runs one)
	@echo "On two quiet CPUs: startup takes 1 minute, run_once 15, layers 1, scale 35, punctuality 35, caps 10, soak 7. Now: $(BENCHMARKS)"
	@set -e; for each in $(BENCHMARKS); do \
	  echo; echo "== $$each"; \
	  PYTHONPATH=tests BENCH_OUT=$${BENCH_OUT:-docs/benchmarks/$$each.json} $(BIN)/python -m benchmarks.$$each; \
	done
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.plots

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-header --quiet

lock:            ## lock the current versions of the dependencies (needs uv)
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	printf 'hatch-fancy-pypi-readme\nhatchling\n' | $(COMPILE) -c requirements-dev.txt - -o deploy/requirements-build.txt
	$(COMPILE) tools/jupyterhub/requirements.in -o tools/jupyterhub/requirements.txt
	$(COMPILE) tools/cyclonedx-py/requirements.in -o tools/cyclonedx-py/requirements.txt

clean:           ## remove the environment and the caches, but not the built servers
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
