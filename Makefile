# softprompt-serve: `make` says what there is.
#
# make serve: MODEL (a vLLM model; empty: the demo), PORT, ARGS (any flags of `vllm serve`)
# make test, make check: PYTEST (arguments of pytest)
# ACCELERATOR=cpu|cuda overrules what is detected; TORCH_INDEX: see scripts/bootstrap.py

PYTHON ?= python3
MODEL ?=
PORT ?= 8000
ARGS ?=
PYTEST ?=
DEMO_MODEL ?= $(CURDIR)/.demo/model

BIN := .venv/bin
INSTALLED := .venv-wheel/bin
# The checkout must not come before the installed wheel on the path, in subprocesses neither.
INSTALLED_ENV := PYTHONSAFEPATH=1 DEMO_MODEL="$(DEMO_MODEL)"

.DEFAULT_GOAL := help
.PHONY: help serve test check lint format docs train lock release audit clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

serve: ## Install, prepare the demo and serve it on 127.0.0.1:8000 (MODEL= PORT= ARGS=)
	@$(PYTHON) scripts/bootstrap.py --with demo
ifeq ($(strip $(MODEL)),)
	@$(BIN)/python -m softprompt_serve.demo.serve --port $(PORT) -- $(ARGS)
else
	@$(BIN)/softprompt-serve serve $(MODEL) --port $(PORT) $(ARGS)
endif

test: ## Install what tests need, build and install the wheel, run every test against it
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/python scripts/wheel.py
	@$(INSTALLED_ENV) $(INSTALLED)/python -m softprompt_serve.demo.prepare "$(DEMO_MODEL)"
	@$(INSTALLED_ENV) $(INSTALLED)/python -m pytest $(PYTEST)

check: ## Run every test that needs no engine, on the checkout
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/python -m pytest -m "not engine" $(PYTEST)

lint: ## Check style, types, deploy/, and that what is generated is current
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m softprompt_serve.settings_docs --check
	@PYTHONPATH=deploy/grafana $(BIN)/python -m dashboards --check
	@$(BIN)/python scripts/lint_deploy.py

format: ## Format the code and fix what can be fixed
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: ## Write docs/settings.md and the dashboards
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/python -m softprompt_serve.settings_docs
	@PYTHONPATH=deploy/grafana $(BIN)/python -m dashboards

train: ## Train the demo's soft prompts again (minutes on 2 cores)
	@$(PYTHON) scripts/bootstrap.py --with demo
	@$(BIN)/python -m softprompt_serve.demo.prepare "$(DEMO_MODEL)"
	@$(BIN)/python -m softprompt_serve.demo.train --version v2 --model "$(DEMO_MODEL)"
	@$(BIN)/python -m softprompt_serve.demo.train --version v3 --model "$(DEMO_MODEL)"

lock: ## Write requirements/ from pyproject.toml (UPGRADE=1: newest of everything)
	@$(PYTHON) scripts/bootstrap.py --with lock
	@$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)

release: ## Make dist/: wheel, sdist, bills of materials (CycloneDX), licences, checksums
	@$(PYTHON) scripts/bootstrap.py
	@$(BIN)/python scripts/release.py

audit: ## Ask whether a pinned package has a known vulnerability (needs the network)
	@$(PYTHON) scripts/bootstrap.py
	@$(BIN)/python scripts/release.py --audit

clean: ## Remove the environments and caches
	rm -rf .venv .venv-wheel .venv-release .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis
