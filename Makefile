SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
SITE := src/pillarbox/console/reference/index.html
PYTEST := $(BIN)/python -m pytest
# The mail programs, name servers, tracers and the browser that the tests talk to; a test whose peer is missing is skipped.
PEERS := postfix swaks libnet-ssleay-perl dovecot-core dovecot-lmtpd unbound strace opendkim msmtp gsasl rspamd slapd postgresql pebble testssl.sh haproxy chromium
WORKERS ?= 2
ARGS ?=

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(SITE)  ## start the sandbox: accepts every message, shows it, sends nothing on; ARGS="--smtp 127.0.0.1:2025" puts it elsewhere
	@exec $(BIN)/pillarbox serve $(ARGS)

.PHONY: venv
venv: $(STAMP)  ## make .venv from the locked requirements, with the project in it (editable)

# The stamp is written last, so an interrupted install starts again instead of looking complete.
$(STAMP): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Pillarbox needs Python 3.11 or newer; choose one with: make venv PYTHON=/path/to/python3"; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "python3-venv is missing: installing it"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv </dev/null >/dev/null; \
	  else \
	    echo "This Python has no venv module. On Debian, as root: apt-get install python3-venv"; exit 1; \
	  fi; \
	fi
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src  # pip does it for what it installs, but not for what stays where it is
	@touch $@

# What `serve` shows of the replies; it lies in the package, and a wheel takes it along.
$(SITE): $(STAMP) $(wildcard docs/transcripts/*.txt src/pillarbox/console/templates/*)
	@$(BIN)/python docs/site.py >/dev/null

.PHONY: lint
lint: venv  ## style, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

.PHONY: test
test: venv peers  ## all tests; ARGS="-k name" chooses some
	@$(BIN)/python -m compileall -q src  # they start servers by the hundred
	$(PYTEST) -n $(WORKERS) --dist loadgroup $(ARGS)

.PHONY: crash
crash: venv peers  ## the long crash run: 200 kills under load, and what came of it
	PILLARBOX_KILLS=200 $(PYTEST) tests/crash --timeout 3600 $(ARGS)

.PHONY: bench
bench: venv  ## measure a store with a million recipients on this machine
	$(BIN)/python bench/queue_million.py $(ARGS)

# Atheris is no part of the other requirements: it is large, and is built for few versions of Python.
.PHONY: fuzz
fuzz: venv  ## feed random octets to all that reads them, FUZZ_S seconds each; ARGS="wire server" chooses some
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r fuzz/requirements.txt
	@for target in $(or $(ARGS),$(notdir $(wildcard fuzz/corpus/*))); do $(BIN)/python fuzz/run.py $$target $(FUZZ_S); done

FUZZ_S ?= 60

.PHONY: nightly
nightly: fuzz  ## what takes too long for each change

.PHONY: docs
docs: venv  ## write the generated reference pages, and the site of replies that the console shows
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/site.py

.PHONY: transcripts
transcripts: venv peers  ## record anew what was said in the tests of the scenarios
	rm -f docs/transcripts/E*.txt
	PILLARBOX_TRANSCRIPTS=docs/transcripts $(PYTEST) -n $(WORKERS) --dist loadgroup -k "test_E2 or test_E3 or test_E4 or test_E5 or live_server"
	$(BIN)/python docs/site.py

.PHONY: peers
peers:
	@.ci/peers $(PEERS)

.PHONY: lock
lock:  ## pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile $(LOCK) pyproject.toml -o requirements.txt
	uv pip compile $(LOCK) pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt

LOCK := --quiet --upgrade --generate-hashes --universal --python-version 3.11 \
  --no-header --no-emit-index-url --annotation-style line
