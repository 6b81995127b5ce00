# softprompt-serve: `make` says what there is.
#
# make serve: MODEL (a vLLM model; empty: the demo), PORT, ARGS (any flags of `vllm serve`)
# make bbh: URL (a running demo; empty: one is started on PORT), ARGS (of softprompt_serve.demo.bbh)
# make soak: MINUTES
# make bench: RESULTS (a folder; .bench)
# make test, make check: PYTEST (arguments of pytest)
# make compat: RELEASES (of vLLM; empty: those supported and their neighbours)
# make fuzz: CASES (how many), SEED; make faults: ROUNDS (kills of each kind; a fifth of an engine's), SEED
# ACCELERATOR=cpu|cuda overrules what is detected; TORCH_INDEX: see scripts/bootstrap.py

PYTHON ?= python3
MODEL ?=
PORT ?= 8000
ARGS ?=
URL ?=
PYTEST ?=
MINUTES ?= 30
CASES ?= 1000
ROUNDS ?= 25
RESULTS ?= $(CURDIR)/.bench
SEED ?= 1
DEMO_MODEL ?= $(CURDIR)/.demo/model

BIN := .venv/bin
INSTALLED := .venv-wheel/bin
# The checkout must not come before the installed wheel on the path, in subprocesses neither.
INSTALLED_ENV := PYTHONSAFEPATH=1 DEMO_MODEL="$(DEMO_MODEL)"

.DEFAULT_GOAL := help
.PHONY: help bench serve test check lint format docs compat mutate soak train lock clean bbh fuzz faults release audit

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

fuzz: ## Send the admin API, and uploads, thousands of cases (CASES= SEED=)
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@FUZZ_CASES=$(CASES) $(BIN)/python -m pytest tests/fuzz --timeout=7200 --hypothesis-seed=$(SEED) $(PYTEST)

faults: ## Kill, fill, damage and delay what a server stands on, many times over (ROUNDS= SEED=)
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/python -m softprompt_serve.demo.prepare "$(DEMO_MODEL)"
	@FAULT_ROUNDS=$(ROUNDS) FAULT_SEED=$(SEED) DEMO_MODEL="$(DEMO_MODEL)" $(BIN)/python -m pytest tests/faults --timeout=7200 -rA $(PYTEST)

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

soak: ## Ask at random for MINUTES (30) while versions change, and check every answer
	@$(PYTHON) scripts/bootstrap.py --with demo
	@$(BIN)/python -m softprompt_serve.demo.prepare "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/soak.py --demo "$(DEMO_MODEL)" --minutes $(MINUTES)

compat: ## Compare what is used of vLLM with its other releases (RELEASES="0.33.0 …")
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/python scripts/compat.py $(RELEASES)

mutate: ## Break the overlay on purpose, 70 ways, and see that a test fails for each
	@$(PYTHON) scripts/bootstrap.py --with demo --with test
	@$(BIN)/python scripts/mutate.py

bench: ## Measure everything side by side; tables here, charts in .bench (three hours on 2 cores; RESULTS=)
	@$(PYTHON) scripts/bootstrap.py --with demo
	@$(BIN)/python -m softprompt_serve.demo.prepare "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/overlay.py --model "$(DEMO_MODEL)" --results "$(RESULTS)"
	@$(BIN)/python benchmarks/overlay.py --model "$(DEMO_MODEL)" --sheets wide --dtype bfloat16 --results "$(RESULTS)"
	@$(BIN)/python benchmarks/overlay.py --model "$(DEMO_MODEL)" --sheets transport --dtype bfloat16 --results "$(RESULTS)"
	@$(BIN)/python benchmarks/load_tool.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/deep.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/kinds.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/mixed.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/swap.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/prefix.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/lag.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/lag.py --model "$(DEMO_MODEL)" --alone
	@$(BIN)/python benchmarks/shadow.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/telemetry.py --model "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/routing.py
	@$(BIN)/python benchmarks/profile_request.py
	@$(BIN)/python benchmarks/zipf.py --demo "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/starting.py --demo "$(DEMO_MODEL)"
	@$(BIN)/python benchmarks/scale.py
	@$(BIN)/python benchmarks/gpu_costs.py --paper

train: ## Train the demo's soft prompts, its prefix and the LoRA beside them again (an hour on 2 cores)
	@$(PYTHON) scripts/bootstrap.py --with demo
	@$(BIN)/python -m softprompt_serve.demo.prepare "$(DEMO_MODEL)"
	@$(BIN)/python -m softprompt_serve.demo.train --version v2 --model "$(DEMO_MODEL)"
	@$(BIN)/python -m softprompt_serve.demo.train --version v3 --model "$(DEMO_MODEL)"
	@$(BIN)/python -m softprompt_serve.demo.train --version v4 --model "$(DEMO_MODEL)"
	@$(BIN)/python -m softprompt_serve.demo.train --version lora --model "$(DEMO_MODEL)"

bbh: ## Measure the demo's versions and their base model on a slice of BIG-Bench Hard (URL= PORT=)
	@$(PYTHON) scripts/bootstrap.py --with demo
	@$(BIN)/python -m softprompt_serve.demo.bbh --port $(PORT) $(if $(strip $(URL)),--url $(URL)) \
		--keep softprompt_serve/demo/prompts/support-evidence $(ARGS)

lock: ## Write requirements/ from pyproject.toml (UPGRADE=1: newest of everything)
	@$(PYTHON) scripts/bootstrap.py --with lock
	@$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)

release: ## Make dist/: wheel, sdist, bills of materials (CycloneDX), licences, checksums
	@$(PYTHON) scripts/bootstrap.py
	@$(BIN)/python scripts/make_release.py

audit: ## Ask whether a pinned package has a known vulnerability (needs the network)
	@$(PYTHON) scripts/bootstrap.py
	@$(BIN)/python scripts/make_release.py --audit

clean: ## Remove the environments and caches
	rm -rf .venv .venv-wheel .venv-release .venv.lock .compat .mypy_cache .ruff_cache .pytest_cache .hypothesis
