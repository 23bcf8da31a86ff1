.DEFAULT_GOAL := help

# The version of everything: Cargo.toml's.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

.PHONY: help setup build demo test test-fips test-matrix soak bench bench-worker bench-gateway bench-gateway-steady bench-history bench-instructions bench-publish lint check-text check-deploy check-contract schemas render image image-test image-twice release-check fuzz version audit

# The RabbitMQ versions of `make test-matrix`.
VERSIONS ?= 3.10 4.0 4.3

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-20s %s\n", $$1, $$2 }'

setup: ## Name and install the system packages that demo, test, lint and the benches need
	@scripts/setup

build: ## Build everything
	cargo build --workspace --all-targets

demo: ## Set up what is missing, then show worker and gateway at work with a stand-in for Trackfinity; KEEP=1 stays up
	@exec scripts/demo $(if $(filter-out 0,$(KEEP)),--keep)

# Most tests wait most of the time.
TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

test: ## Set up what is missing and run all tests (TEST_THREADS=1)
	@scripts/setup test
	RUST_TEST_THREADS=$(TEST_THREADS) cargo test --workspace --no-fail-fast

test-fips: ## Build with the FIPS module of AWS-LC and run the tests of TLS with it; gets cmake and Go
	@scripts/setup test
	@scripts/get-fips-tools
	cargo test --features fips --test it -- fips proxy:: certificate

test-matrix: ## Run all tests on several RabbitMQ versions; needs a Docker engine (VERSIONS="3.10 4.0")
	@UNLOCKER_TEST_BROKER=local scripts/setup test
	@scripts/test-matrix $(VERSIONS)

soak: ## Let all processes live through random faults and check the history of every request (SECONDS=120 SEED=… RATE=100 NODES=3 HISTORY=on FAULTS=on IMAGE=…)
	@IMAGE="$(IMAGE)" scripts/soak --seconds $(or $(SECONDS),120) --rate $(or $(RATE),100) --nodes $(or $(NODES),1) --history $(or $(HISTORY),on) --faults $(or $(FAULTS),on) $(if $(SEED),--seed $(SEED))

# Which RabbitMQ the benches run on: `make bench IMAGE=rabbitmq:4.3-management`, or the one of this machine.
broker = $(if $(IMAGE),UNLOCKER_TEST_BROKER=docker UNLOCKER_TEST_RABBITMQ_IMAGE=$(IMAGE)) UNLOCKER_TEST_AMQP_URL=

bench: bench-worker $(if $(ONLY),,bench-gateway bench-history) ## Time worker, gateway and history, the first two against bare loops (PAIRS=5 IMAGE=rabbitmq:4.3-management; ONLY="quorum tls" of the worker's)

bench-worker: ## Time the worker against a bare loop, by turns, in one run (PAIRS=5 REQUESTS=30000 BACKLOG=1000000 ONLY="quorum latency" IMAGE=…)
	@$(broker) scripts/get-broker
	$(broker) cargo bench --bench throughput -- --pairs $(or $(PAIRS),5) --requests $(or $(REQUESTS),30000) --backlog $(or $(BACKLOG),1000000) $(ONLY)

bench-gateway: ## Time the gateway against a bare loop, by turns, in one run; needs wrk (PAIRS=5 SECONDS=5 ONLY="rate latency" IMAGE=…)
	@$(broker) scripts/get-broker
	@scripts/get-wrk
	$(broker) cargo bench --bench gateway -- --pairs $(or $(PAIRS),5) --seconds $(or $(SECONDS),5) $(ONLY)

bench-gateway-steady: ## Load the gateway with half of its rate for ten minutes; fails at an error, or if it grows (SECONDS=600 IMAGE=…)
	@$(broker) scripts/get-broker
	@scripts/get-wrk
	$(broker) cargo bench --bench gateway -- --steady $(or $(SECONDS),600) steady

bench-history: ## Time searches of the history and the gateway's polls (OUTCOMES=200000 IN_FLIGHT=1 RUNS=3 IMAGE=…)
	@$(broker) scripts/get-broker
	$(broker) cargo bench --bench history -- --outcomes $(or $(OUTCOMES),200000) --in-flight $(or $(IN_FLIGHT),1) --runs $(or $(RUNS),3)

bench-instructions: ## Count the instructions of a message's pure parts; fails where they have grown
	@scripts/get-callgrind
	cargo bench --profile instructions --no-default-features --bench instructions

bench-publish: ## Time `publish --from` against a bare confirm loop, in one run (REQUESTS=100000 ROUNDS=3 IMAGE=…)
	@$(broker) scripts/get-broker
	$(broker) cargo bench --bench publish -- $(or $(REQUESTS),100000) $(or $(ROUNDS),3)

lint: check-text check-deploy check-contract ## Check formatting, clippy, docs, licences, unused dependencies, spelling, scripts, deploy/ and the descriptions of the APIs
	@scripts/get-cargo-tools
	cargo fmt --all --check
	cargo fetch --locked
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --manifest-path fuzz/Cargo.toml --locked --no-default-features --target-dir "$${CARGO_TARGET_DIR:-target}" -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	cargo deny --offline check --deny unmatched-skip bans licenses sources
	cargo machete --skip-target-dir

check-text: ## Check the spelling, and the shell scripts; gets typos and shellcheck
	@scripts/check-text

check-deploy: ## Check the alerts, the chart and the manifests; gets promtool and Helm
	@scripts/get-prometheus
	@scripts/check-deploy

render: ## Write deploy/kubernetes from the chart
	@scripts/get-prometheus
	@scripts/check-deploy --write

image: ## Build the image trackfinity-unlocker:VERSION, its SBOM, and with buildx its provenance; needs a Docker engine (FEATURES=fips)
	@FEATURES="$(FEATURES)" scripts/image

image-test: ## Build the image and let it unlock, read-only and not as root; needs a Docker engine
	@scripts/image-test

image-twice: ## Build the image again without a cache, and compare: two builds are the same; needs a Docker engine
	@scripts/image-twice

release-check: ## Do all that a release does but the upload, for this processor (ADVISORY_DB=folder); needs a Docker engine
	@ADVISORY_DB=$(ADVISORY_DB) scripts/release-check

fuzz: ## Let libFuzzer search for inputs that fail a check (SECONDS=60 TARGETS="…"); needs a C++ compiler
	@FUZZ_SECONDS=$(or $(SECONDS),60) scripts/fuzz $(TARGETS)

check-contract: ## Check docs/asyncapi.yaml, its schemas and its examples, and the OpenAPI documents; gets the parsers
	@scripts/get-clients asyncapi
	@PATH="$$PWD/target/node/bin:$$PATH" node scripts/asyncapi/check.js docs/asyncapi.yaml
	@PATH="$$PWD/target/node/bin:$$PATH" node scripts/asyncapi/openapi.js docs/openapi.json docs/openapi-gateway.json
	@scripts/asyncapi/.venv/bin/python -m openapi_spec_validator docs/openapi.json docs/openapi-gateway.json

schemas: ## Write docs/schemas/ again
	cargo build --bin unlocker
	@for message in request request-strict outcome; do "$${CARGO_TARGET_DIR:-target}/debug/unlocker" schema $$message >docs/schemas/$$message.json; done

version: ## Print the version
	@echo $(VERSION)

audit: ## Check the dependencies for known vulnerabilities; needs the network
	@scripts/get-cargo-tools cargo-deny
	cargo deny check advisories
	cargo deny --manifest-path fuzz/Cargo.toml check advisories
