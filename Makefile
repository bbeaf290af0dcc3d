# `make demo` and `make test` need Python 3.11 and make; the tests against real servers also Go, etcd, prometheus, systemd-analyze and chromium.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test servers lint simulate-long kills bench lock clean

help:            ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## a virtual environment in .venv, from the locked requirements

$(INSTALLED): requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install    ## watch keys being born, published, superseded and removed; no outside service
	@$(BIN)/rotator demo

# The tests on real servers mostly wait: four workers run them, a file at a time, each with servers of its own.
# The simulation computes, and gives way to them; its output comes last.
test: install servers  ## the whole suite; without Go, what needs a real server is skipped and says so
	@nice $(BIN)/python -m pytest tests/simulation >$(VENV)/simulation.log 2>&1 & simulation=$$!; \
	trap 'kill $$simulation 2>/dev/null' EXIT INT TERM; \
	status=0; \
	$(BIN)/python -m pytest -n 4 --dist loadfile --ignore=tests/simulation || status=$$?; \
	wait $$simulation || status=$$?; \
	cat $(VENV)/simulation.log; \
	exit $$status

servers: install  ## build the real servers and tools that the tests run (about 20 minutes, once)
	@$(BIN)/python tools/build_servers.py

lint: install    ## ruff, mypy strict, the import rules, and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

simulate-long: install  ## the protocol under ever new schedules, until it is stopped (SEED=0 is the first)
	cd tests && PYTHONPATH=.. ../$(BIN)/python -m simulation $(or $(SEED),0) --many 0

kills: install servers  ## 200 kills and freezes of two daemons on a real Vault (ROTATOR_KILLS=200)
	ROTATOR_KILLS=$${ROTATOR_KILLS:-200} $(BIN)/python -m pytest tests/integration/test_kills.py -s

BENCHMARKS ?= run_once layers scale punctuality soak

bench: install servers  ## all measurements of docs/benchmarks.md (about 90 minutes; BENCHMARKS=soak is that one alone)
	@echo "On two quiet CPUs: run_once takes 12 minutes, layers 1, scale 35, punctuality 35, soak 7. Now: $(BENCHMARKS)"
	@set -e; for each in $(BENCHMARKS); do \
	  echo; echo "== $$each"; \
	  PYTHONPATH=tests BENCH_OUT=$${BENCH_OUT:-docs/benchmarks/$$each.json} $(BIN)/python -m benchmarks.$$each; \
	done
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.plots

lock:            ## pin the dependencies anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet \
	  pyproject.toml -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet \
	  --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	echo hatchling | uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet \
	  -c requirements-dev.txt - -o deploy/requirements-build.txt

clean:           ## forget the environment and the caches; the built servers stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
