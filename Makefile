# `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Named after the interpreter, so that another PYTHON makes the environment anew.
INTERPRETER := $(shell $(PYTHON) -c 'import sys, zlib; print(zlib.crc32((sys.version + sys.base_prefix).encode()))' 2>/dev/null)
RUNTIME := $(VENV)/runtime-$(INTERPRETER)
DEVELOPMENT := $(VENV)/development-$(INTERPRETER)

UPGRADE = $(if $(PACKAGE),--upgrade-package $(PACKAGE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help serve test test-fast test-container test-swarm format check soak campaign bench bench-app bench-full lock clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' $(MAKEFILE_LIST) | while read -r target purpose; do printf '  make %-16s %s\n' "$$target" "$$purpose"; done

$(RUNTIME): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo 'PYTHON=$(PYTHON) is not Python 3.11 or later; name one: make PYTHON=...' >&2; exit 2; }
	@rm -f $(VENV)/runtime-* $(VENV)/development-*
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(DEVELOPMENT): $(RUNTIME) requirements-dev.txt
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

serve: $(RUNTIME)  ## serve, without a pair a self-signed one; settings from server.toml and the environment
	@exec $(BIN)/python -m app --self-signed

test: $(DEVELOPMENT)  ## run the test suite, three to five minutes; says how much of app/service and app/settings it covers
	@$(BIN)/python -m pytest -m 'not container and not swarm' --numprocesses 6 --dist loadgroup --cov

test-fast: $(DEVELOPMENT)  ## run the tests that need no server process, under half a minute
	@$(BIN)/python -m pytest -m 'not container and not swarm and not server' --numprocesses 2

soak: $(DEVELOPMENT)  ## load the service for half an hour, into docs/reliability.md; SOAK='--scale 0.1 --minutes 1' for less
	@$(BIN)/python -m bench.soak $(SOAK)

campaign: $(DEVELOPMENT)  ## an hour of renewals, signals and faults under load, into docs/reliability.md; CAMPAIGN='--minutes 3' for less
	@$(BIN)/python -m bench.campaign $(CAMPAIGN)

test-container: $(DEVELOPMENT)  ## build the image and test it in the Docker engine that `docker info` reaches
	@$(BIN)/python -m pytest -m container -rP

test-swarm: $(DEVELOPMENT)  ## run deploy/stack.yaml in a swarm of its own, in the Docker engine that `docker info` reaches
	@$(BIN)/python -m pytest -m swarm -rP

format: $(DEVELOPMENT)  ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix --silent . || true
	$(BIN)/ruff format .

check: $(DEVELOPMENT)  ## format and lint (ruff), types (mypy), who imports whom (import-linter)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

bench-app: $(RUNTIME)  ## what a request costs in process; fails if a request head takes longer than its bound
	@$(BIN)/python -m bench.app

bench: $(DEVELOPMENT)  ## this service beside uvicorn and fastpysgi, under six minutes on a calm machine; needs wrk and h2load
	@$(BIN)/python -m bench

bench-full: $(DEVELOPMENT)  ## all measurements and servers, over an hour on a calm machine; it says how long
	@$(BIN)/python -m bench --full

# Without the extras in the pins, pip 23 takes a newer release for `coverage[toml]` and refuses it as not pinned.
lock: $(DEVELOPMENT)  ## renew the pins from pyproject.toml, all of them or PACKAGE=... alone
	$(BIN)/uv pip compile $(UPGRADE) --universal --generate-hashes --no-strip-extras --quiet \
	    --custom-compile-command 'make lock' --python-version 3.11 pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile $(UPGRADE) --universal --generate-hashes --no-strip-extras --quiet \
	    --custom-compile-command 'make lock' --python-version 3.11 --constraint requirements.txt --group dev -o requirements-dev.txt

clean:  ## remove what the targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
