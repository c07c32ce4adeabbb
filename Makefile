.DEFAULT_GOAL := help
# The first Python here that Ray has a build for; the tests run on 3.11.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= serve_config.yaml
ARTIFACT ?= artifacts/movielens

VALUES ?= monitoring/alerts/laptop.yaml

UNIT := not cluster and not trained and not server and not long

.PHONY: help serve monitor train check unit test e2e-long fuzz lint format bench docs clean

help: ## This list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# torch first and alone: its exact version keeps pip from choosing a CUDA build of several GB.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
		{ echo "error: no Python from 3.11 to 3.13 found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo,dev,docs]'
	touch $@

$(ARTIFACT): | $(VENV)/.installed
	$(BIN)/python -m graphs train --data movielens --out $@

train: $(VENV)/.installed ## Train on MovieLens (again) and evaluate
	$(BIN)/python -m graphs train --data movielens --out $(ARTIFACT)

serve: $(VENV)/.installed $(ARTIFACT) ## Set up, train if there is no artifact, and serve on :8000
	$(BIN)/python -m graphs serve $(CONFIG)

monitor: $(VENV)/.installed ## Prometheus on :9090 and Alertmanager on :9093, beside `make serve`
	$(BIN)/python -m monitoring.run --values $(VALUES)

check: $(VENV)/.installed ## While you work: lint, and the tests without Ray, servers or training (2 minutes)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line lint unit

unit: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m '$(UNIT)'

test: $(VENV)/.installed ## All that users run, without a GPU, and the coverage of the code (20 minutes)
	$(BIN)/python -m pytest -m 'not long' --cov --cov-report=

# 5: pytest found no test with the mark.
e2e-long: $(VENV)/.installed ## End-to-end tests that take longer
	$(BIN)/python -m pytest -m long || test $$? -eq 5

fuzz: $(VENV)/.installed ## 100,000 connections, good and bad, by the HTTP fast path and by uvicorn alone
	FUZZ_EXAMPLES=100000 $(BIN)/python -m pytest -q -p no:logging --timeout=0 tests/deployments/api/fast_path/test_differential.py

lint: $(VENV)/.installed ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed ## Format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed ## The site of docs/, strictly, into site/; `python -m graphs docs` writes its generated pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed $(ARTIFACT) ## Measure (25 minutes; needs wrk), and write benchmarks/RESULTS.md
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m graphs evaluate --out benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks speed
	$(BIN)/python -m benchmarks open-loop
	$(BIN)/python -m benchmarks cpu --workload light --server rayfunnel
	$(BIN)/python -m benchmarks scoring

clean: ## Remove the environment and the artifacts
	rm -rf $(VENV) artifacts site
