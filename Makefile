# Everything is built with cargo; what else tests need is fetched by tests/tools/install.sh into the user's cache.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/spillway
CHDB_VERSION := $(shell sed -n 's/^chdb-core==\([^ \\]*\).*/\1/p' clickhouse-front/requirements.txt)
CHDB := $(CACHE)/chdb-$(CHDB_VERSION)
PYTEST := $(CACHE)/pytest-$(CHDB_VERSION)
CHART := $(CACHE)/pytest-chart-$(shell md5sum < tests/chart/requirements.txt | cut -c1-10)
ARGS ?=
# A failing test must fail the pipe that its output goes through.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

.PHONY: help run test test-operator test-chart crash e2e bench lint tools bins pytest crd cluster-up cluster-down images e2e-kind

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Of the whole workspace, so that `make test` has the same crates with the same features.
run: ## Run the quickstart: send some logs, show them in ClickHouse, go on until Ctrl-C (ARGS=--once: don't go on)
	cargo build --workspace --bin spillway
	@exec target/debug/spillway up -f examples/quickstart.yaml --demo $(ARGS)

test: room tools pytest test-chart bins ## Run every test; those on a cluster as root on Linux, else they are counted as skipped
	@mkdir -p target
	cargo test --workspace --exclude spillway-e2e 2>&1 | tee target/test.log
	@$(MAKE) --no-print-directory e2e-if-possible 2>&1 | tee -a target/test.log
	@awk '/^test result:/ { passed += $$4; failed += $$6; skipped += $$8 } \
		END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit passed == 0 }' target/test.log

test-operator: tools bins ## Run the operator against a real control plane (ARGS: words of the tests' names)
	cargo test -p spillway-tests --test operator -- $(ARGS)

test-chart: tools $(CHART)/bin/pytest ## Render and install the chart on a real API server; read the image's recipe and kind's
	$(CHART)/bin/python -m pytest -q tests/chart tests/kind

crash: tools bins ## Kill it at every step and count the rows
	cargo test -p spillway-tests --test crash -- $(ARGS)

# The images that `cluster load` makes; without them in the environment the suite skips every test.
E2E = cargo test --workspace --test e2e
E2E_IMAGES = $(foreach image,IMAGE=spillway:test NEXT_IMAGE=spillway:next MINIO_IMAGE=minio:test CLICKHOUSE_IMAGE=clickhouse:test,\
	SPILLWAY_E2E_$(subst =,=localhost/spillway/,$(image)))

e2e: tools bins ## Run the tests on a real cluster that it starts and stops: two nodes on this machine (root on Linux; ARGS: words of the tests' names)
	$(E2E) --no-run
	target/debug/cluster with --load -- env $(E2E_IMAGES) $(E2E) -- $(ARGS)

.PHONY: e2e-if-possible
e2e-if-possible:
	@if [ "$$(id -u)" = 0 ] && target/debug/cluster check; then $(MAKE) --no-print-directory e2e; \
		else echo "without root on Linux and what cluster check names, the tests on a cluster are skipped"; $(E2E); fi

bench: tools ## Measure against the machine's own limits, into target/bench.json
	cargo build --release -p spillway-ingest -p spillway-syncer -p spillway-operator -p spillway-benches
	target/release/bench $(ARGS)

lint: ## Formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

tools: ## Fetch and build what the tests start: MinIO, chdb-core, Kubernetes, helm (the first time 10 minutes and more)
	tests/tools/install.sh

.PHONY: room
room:
	@tests/tools/room.sh

# System tests start the programs as they are installed.
bins:
	cargo build --workspace --bins

pytest: tools
	@test -x $(PYTEST)/bin/pytest || { python3 -m venv --clear $(PYTEST) && \
		$(PYTEST)/bin/pip install --quiet --disable-pip-version-check -r clickhouse-front/tests/requirements.txt && \
		$(PYTEST)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r clickhouse-front/requirements.txt; }
	cd clickhouse-front && $(PYTEST)/bin/python -m pytest -q tests

$(CHART)/bin/pytest:
	python3 -m venv --clear $(CHART)
	$(CHART)/bin/pip install --quiet --disable-pip-version-check -r tests/chart/requirements.txt

crd: tools $(CHART)/bin/pytest ## Write anew what is generated: the CRD, its reference, the columns, the chart's copy, deploy/
	UPDATE=1 cargo test -p spillway-crds -p spillway-cli
	UPDATE=1 $(CHART)/bin/python -m pytest -q tests/chart/test_generated.py

cluster-up: tools bins ## Start a cluster of two nodes on this machine, with our images in it (root; kubectl: target/debug/cluster kubectl)
	target/debug/cluster up
	target/debug/cluster load

cluster-down: ## Stop it
	target/debug/cluster down

# Usually for a registry: make images IMAGE=registry.example.com/spillway:0.1.0 ARGS=--push
IMAGE ?= spillway:dev
images: ## Build the image for amd64 and arm64 with Docker (IMAGE: its name; ARGS: --push)
	tests/kind/image.sh $(IMAGE) --platform linux/amd64,linux/arm64 $(ARGS)

e2e-kind: ## Run the tests of `make e2e` on kind, with Docker (ARGS: words of the tests' names)
	tests/kind/e2e.sh $(ARGS)
