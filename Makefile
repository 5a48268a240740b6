# Two commands do everything on a machine with nothing but Python 3.11+: `make demo` and `make test`.
.POSIX:
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_HOME := $(CURDIR)/demo

.PHONY: demo test check deploy-check unit bench bench-smoke chaos fuzz zoo zoo-torchvision clean

# Made again whenever the dependencies change.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dljobs needs Python 3.11 or newer; give one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" DLJOBS_HOME="$(DEMO_HOME)" sh deploy/demo.sh

# Most tests wait for processes: two at a time take two thirds of the time, even on two cores.
test: check
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

# Compose and Kubernetes by their schemas, units by systemd, the rest by its linter.
deploy-check: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[deploy-check]'
	$(BIN)/yamllint --strict -c deploy/.yamllint deploy
	$(BIN)/hadolint deploy/docker/Dockerfile
	$(BIN)/shellcheck deploy/*.sh deploy/*/*.sh
	$(BIN)/kubernetes-validate --strict $$(ls deploy/kubernetes/*.yaml | grep -v kustomization)
	$(BIN)/pytest tests/unit/test_deploy.py

unit: $(VENV)/.installed
	$(BIN)/pytest tests/unit

# Twenty minutes of everything breaking, and an audit: make chaos SECONDS=300 SEED=7
SECONDS ?= 1200
chaos: $(VENV)/.installed
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Ten thousand inputs, and longer walks through the protocol of jobs and leases.
fuzz: $(VENV)/.installed
	DLJOBS_TEST_FUZZ=2000 DLJOBS_TEST_EXAMPLES=200 $(BIN)/pytest --timeout 3600 tests/fuzz tests/integration/store/test_protocol.py

# Jobs over several hosts, which are network namespaces: as root. One of them is cut off, one loses packets.
hosts: $(VENV)/.installed
	$(BIN)/pytest -m slow -s tests/integration/test_hosts.py

# A step of every classifier of torchvision: half an hour on two cores, and 12 GB of memory for the largest.
zoo-torchvision: $(VENV)/.installed
	$(BIN)/pytest -m slow tests/integration/test_torchvision_models.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks --write-results

bench-smoke: $(VENV)/.installed
	$(BIN)/python -m benchmarks --smoke

zoo: $(VENV)/.installed
	$(BIN)/python -m benchmarks.zoo

clean:
	rm -rf $(VENV) $(DEMO_HOME) build dist *.egg-info
