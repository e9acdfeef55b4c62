# The commands of this repository. `make help` lists them; every target sets up what it needs.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
LOCAL := $(VENV)/.set-up-local
MEASURING := $(VENV)/.set-up-bench
SOURCE ?=
RESOURCES ?= 200000
MUTATIONS ?= 100000
PROCESSES ?= 3
PIPELINE ?= sample
SECONDS ?= 60
SEED ?= 1
QUICK ?=
BENCH ?=
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-emit-find-links --quiet
INSTALL := $(BIN)/uv pip install --python $(BIN)/python --require-hashes --compile-bytecode
COMPOSE_FILE := docker-compose.yaml
FAB := $(VENV)/fab
EDGE := $(VENV)/edge
DOCS := $(VENV)/docs
SUPPLY := $(VENV)/supply
LOCK ?= requirements.lock
SERVICE ?= pypi
KUBERNETES := $(VENV)/kubernetes
DEBIAN ?= debian:trixie-slim
STAND_IN_OPTIONS := --base=localhost/airlock-proof-base --postgres-image=localhost/airlock-proof-postgres \
  --broker-image=localhost/airlock-proof-broker

# Python keeps what it compiles, whatever the shell says: pytest needs 12 CPU seconds to compile the tests, 4 to load them.
export PYTHONDONTWRITEBYTECODE :=
# The program reads SOURCE and PIPELINE from the environment, so that file names need no quoting.
export SOURCE PIPELINE

.PHONY: help run deliver demo-arrivals demo-edge demo-one-patient stop status airflow cli packages mwaa test test-fast proofs package-proofs \
  helm-proof explore fuzz fuzz-edge bench bench-clinical lint cloudformation format lock notice sbom audit-dependencies docs secrets compose-proof \
  compose-stand-ins clean

help: ## list the targets and settings
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 | /p' Makefile | awk -F'|' '{printf "%-27s %s\n", $$1, $$2}'
	@echo
	@echo "  make run SOURCE=/any/folder                         import your own files instead of the sample archive"
	@echo "  make run SOURCE=s3://bucket/prefix/ PIPELINE=name   import objects that are on S3, with your own pipeline file"
	@echo
	@echo "Settings, as environment variables or arguments of make (make run AIRLOCK_API_PORT=8081):"
	@echo "  AIRLOCK_API_PORT=8080      port of the Airflow UI and REST API"
	@echo "  AIRLOCK_S3_PORT=4566       port of the local S3, SQS, EventBridge, STS and IAM"
	@echo "  AIRLOCK_HEALTH_PORT=4567   port of the local HealthImaging and HealthLake"
	@echo "  AIRLOCK_PARALLELISM=4      tasks at the same time"
	@echo "  AIRLOCK_STALL_MINUTES=15   minutes without a change after which make run stops watching a run"
	@echo "  AIRLOCK_PIPELINES=include/pipelines   folder of the pipeline files"
	@echo "  AIRLOCK_METADATA_URL=      Airflow's metadata database instead of SQLite: postgresql+psycopg2://..."
	@echo "  AIRLOCK_METRICS=           where Airflow sends metrics: statsd://host:port, or the address of an OpenTelemetry collector"
	@echo "  AIRLOCK_VAR=var            folder of the local stack's databases, logs and reports"
	@echo "  PYTHON=python3.12          the Python (3.11 to 3.13) for .venv"

run: $(LOCAL) ## start the local stack, import a delivery and print its audit
	@$(BIN)/python -m airlock_local run

deliver: $(LOCAL) ## upload a folder to the local S3, without a run: make deliver SOURCE=/any/folder
	@$(BIN)/python -m airlock_local deliver

demo-arrivals: $(LOCAL) ## upload a folder in pieces; S3's notifications wake the runs
	@$(BIN)/python -m airlock_local demo-arrivals

demo-edge: $(LOCAL) $(EDGE)/.set-up ## have Orthanc, as a PACS, send the sample to the edge; runs wake, and commitments return
	@$(BIN)/python -m airlock_local demo-edge

demo-one-patient: $(LOCAL) ## import records, images and late records, and show whose the studies are
	@$(BIN)/python -m airlock_local demo-one-patient

stop: ## stop the processes that make run started, and no others
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m airlock_local stop; else echo "Nothing to stop: make run was never called here."; fi

status: $(LOCAL) ## show which parts of the local stack are running
	@$(BIN)/python -m airlock_local status

airflow: $(LOCAL) ## run Airflow's command line on the local stack: make airflow CMD="dags list"
	@$(BIN)/python -m airlock_local airflow $(CMD)

cli: $(LOCAL) ## run Airlock's command line on the local stack: make cli CMD="held"
	@$(BIN)/python -m airlock_local cli $(CMD)

# setuptools is in the lock, so that a build downloads nothing. The wheel is built from the source distribution.
packages: $(LOCAL) ## build airlock and airflow-provider-healthaws, as wheels and sources, into dist/
	@rm -rf dist/*.whl dist/*.tar.gz
	@for source in . deploy/provider; do \
	  $(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist "$$source" || exit 1; done
	@ls dist/*.whl

mwaa: | $(BIN)/uv ## build what Amazon MWAA takes into dist/mwaa (docs/mwaa.md)
	@$(BIN)/python deploy/mwaa/build.py dist/mwaa

# Test files that share no server run in parallel. All contract tests share one emulator, all e2e tests one stack.
# The longest files begin first; xdist would begin with those of most tests, which take seconds.
test: $(STAMP) ## run every test but proofs and fuzz; most of them in three processes (PROCESSES=1 for one)
	@begin=$$(date +%s); set -e -x; \
	$(BIN)/python -m pytest -m "not proof" -n $(PROCESSES) --dist loadfile --no-loadscope-reorder tests/explore tests/integration tests/oracles tests/servers tests/unit tests/test_*.py; \
	$(BIN)/python -m pytest -m "not proof" tests/contract; \
	$(BIN)/python -m pytest -m "not proof" tests/e2e; \
	{ set +x; } 2>/dev/null; echo "make test: $$(($$(date +%s) - begin)) seconds"

test-fast: $(STAMP) ## run the tests that need no servers
	$(BIN)/python -m pytest -m "not slow and not proof" -n $(PROCESSES) --dist loadfile --ignore tests/contract

proofs: $(MEASURING) $(FAB)/.set-up $(DOCS)/.set-up $(SUPPLY)/.set-up $(KUBERNETES)/.set-up ## run the tests that take minutes: bursts, killed processes, real servers
	$(BIN)/python -m pytest -m proof --ignore tests/packages tests

package-proofs: $(STAMP) packages mwaa ## install the packages into fresh environments and run their tests there (half an hour)
	$(BIN)/python -m pytest -m proof -s tests/packages

helm-proof: $(STAMP) $(KUBERNETES)/.set-up ## build the image, run the sample in pods (root, podman): make helm-proof BASE=image BUILD_OPTIONS=options
	podman build $(BUILD_OPTIONS) $(if $(BASE),--build-arg BASE=$(BASE)) --target airlock-kubernetes --tag airlock-kubernetes .
	AIRLOCK_POD_IMAGE=airlock-kubernetes $(BIN)/python -m pytest -m proof tests/integration/test_pods.py

explore: $(STAMP) ## search for histories of several runs that break the books: make explore SECONDS=900 SEED=1 (HISTORY=json for one)
	@SECONDS=$(SECONDS) SEED=$(SEED) $(BIN)/python -m tests.explore
	$(BIN)/python -m pytest tests/explore/test_on_postgres.py

fuzz: $(STAMP) ## compare scanner and pydicom on damaged DICOM headers: make fuzz MUTATIONS=100000 (ONLY=n for one)
	@MUTATIONS=$(MUTATIONS) $(BIN)/python -m tests.fuzz.headers

fuzz-edge: $(STAMP) ## let hostile DICOM peers talk to an edge: make fuzz-edge MUTATIONS=20000 (ONLY=n for one)
	@MUTATIONS=$(MUTATIONS) $(BIN)/python -m tests.fuzz.peers

bench: $(MEASURING) ## measure headers, memory and the stage chain beside boto3, s3fs and pydicom (QUICK=1 for a short run)
	@QUICK=$(QUICK) $(BIN)/python -m benchmarks $(BENCH)

bench-clinical: $(MEASURING) ## measure seconds and memory of a large FHIR delivery: make bench-clinical RESOURCES=200000
	@RESOURCES=$(RESOURCES) $(BIN)/python -m benchmarks.clinical

lint: $(STAMP) ## check with ruff, mypy and, if it is installed, docker-compose config
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy include plugins
	@if command -v docker-compose >/dev/null 2>&1; then compose=docker-compose; \
	elif docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=; fi; \
	if [ -z "$$compose" ]; then echo "$(COMPOSE_FILE) is not checked: docker-compose is not installed"; \
	else for more in "" "-f docker-compose.fab.yaml"; do echo "$$compose -f $(COMPOSE_FILE) $$more config -q"; \
	  $$compose --env-file .env.example -f $(COMPOSE_FILE) $$more config -q || exit 1; done; fi

cloudformation: $(STAMP) ## write the policies of iam/ into deploy/cloudformation, and check the templates with cfn-lint
	$(BIN)/python deploy/cloudformation/write_policies.py
	$(BIN)/cfn-lint --regions us-east-1 us-west-2 eu-west-1 eu-west-2 ap-southeast-2 -- deploy/cloudformation/*.yaml

format: $(STAMP) ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The other locks take their versions from the development lock, so that what is deployed and what make run starts is tested.
lock: $(BIN)/uv ## update all locks to today's versions
	$(COMPILE) --upgrade requirements-dev.txt --output-file requirements-dev.lock
	for name in requirements requirements-local requirements-bench requirements-edge; do \
	  $(COMPILE) --upgrade $$name.txt --constraints requirements-dev.lock --output-file $$name.lock || exit 1; done
	$(COMPILE) --upgrade requirements-fab.txt --constraints requirements.lock --output-file requirements-fab.lock
	$(COMPILE) --upgrade requirements-kubernetes.txt --constraints requirements-fab.lock --output-file requirements-kubernetes.lock
	$(COMPILE) --upgrade requirements-docs.txt --constraints requirements.lock --output-file requirements-docs.lock
	$(COMPILE) --upgrade requirements-supply.txt --constraints requirements-dev.lock --output-file requirements-supply.lock

notice: $(STAMP) ## write NOTICE: the licences of the locked packages
	@$(BIN)/python -m supply.notice

sbom: $(SUPPLY)/.set-up ## write the bill of materials of a lock (CycloneDX): make sbom LOCK=requirements.lock
	@$(SUPPLY)/bin/python -m supply.sbom $(LOCK) build/$(LOCK:.lock=.cdx.json)

audit-dependencies: $(SUPPLY)/.set-up ## ask for known vulnerabilities of the locked packages (SERVICE=pypi, osv or an address)
	@$(SUPPLY)/bin/python -m supply.audit --service $(SERVICE) requirements.lock requirements-fab.lock requirements-kubernetes.lock requirements-local.lock requirements-edge.lock

docs: $(DOCS)/.set-up ## build the site of docs/ into build/docs/site; warnings are errors
	@mkdir -p build/docs && cd build/docs && PYTHONPATH="$(CURDIR):$(CURDIR)/include:$(CURDIR)/plugins" \
	  AIRFLOW_HOME="$(CURDIR)/build/docs/airflow" "$(CURDIR)/$(DOCS)/bin/python" -m website .

# The images are built by podman; BUILD_OPTIONS are options of podman build, such as --network=host.
compose-proof: $(STAMP) ## build, start and prove docker-compose.yaml (BASE=image; STAND_INS=1 takes those of compose-stand-ins)
	$(BIN)/python -m tests.compose $(if $(STAND_INS),$(STAND_IN_OPTIONS)) $(if $(BASE),--base=$(BASE)) \
	  $(if $(POSTGRES_IMAGE),--postgres-image=$(POSTGRES_IMAGE)) $(if $(BROKER_IMAGE),--broker-image=$(BROKER_IMAGE)) \
	  $(BUILD_OPTIONS:%=--build-option=%)

compose-stand-ins: ## build images from Debian in place of those that cannot be pulled: make compose-stand-ins DEBIAN=image
	@for name in base postgres broker; do set -x; podman build --quiet $(BUILD_OPTIONS) --build-arg=DEBIAN=$(DEBIAN) \
	  --tag=localhost/airlock-proof-$$name --file=tests/compose/images/$$name.Dockerfile tests/compose/images || exit 1; done

# A host that only runs containers has no .venv, and needs none for this.
secrets: ## write .env for Docker Compose from .env.example, with new secrets; an existing .env stays as it is
	@PYTHONPATH=include $${PYTHON:-python3} -m airlock_local.env_file

clean: stop ## delete the local stack's databases, logs and reports (not .venv)
	rm -rf "$${AIRLOCK_VAR:-var}"

# Each candidate is run, because a shim may exist and still not work.
$(BIN)/uv:
	@fits() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }; \
	for name in $${PYTHON:-python3.13 python3.12 python3.11 python3}; do fits "$$name" && python=$$name && break; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 with its venv module was not found as $${PYTHON:-python3.13, python3.12, python3.11 or python3}." \
	    "Install it (Debian: apt-get install python3 python3-venv), or name one: make run PYTHON=/path/to/python3.12" >&2; \
	  exit 2; \
	fi; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Of one environment: make run installs what it needs, the tests add theirs, and so does make bench.
$(LOCAL): requirements-local.lock pyproject.toml | $(BIN)/uv
	@echo "installing the locked packages into $(VENV)"
	@rm -f $@; { $(INSTALL) -r $< \
	  && $(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet -e . \
	  && touch $@; } 2>&1 | { grep -v '^ [-+~] ' || true; }; test -e $@

$(STAMP): requirements-dev.lock $(LOCAL)
	@echo "installing the locked packages of the tests into $(VENV)"
	@$(INSTALL) --quiet -r $< && touch $@

$(MEASURING): requirements-bench.lock $(STAMP)
	@echo "installing the locked packages of make bench into $(VENV)"
	@$(INSTALL) --quiet -r $< && touch $@

# Environments of their own: only some targets need them, and make run would wait for them.
define install_beside
@echo "installing the locked packages of $< into $(@D)"
@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
@$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes --compile-bytecode -r $<
@touch $@
endef

$(FAB)/.set-up $(KUBERNETES)/.set-up $(DOCS)/.set-up $(SUPPLY)/.set-up: $(VENV)/%/.set-up: requirements-%.lock | $(STAMP)
	$(install_beside)

$(EDGE)/.set-up: requirements-edge.lock | $(LOCAL)
	$(install_beside)
