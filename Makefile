# make run: environment, installation, main job.   make test: the same environment, all tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test slow bench export clean readme notebooks figures lab lock mlflow

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then echo $$p; break; fi; done)
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml requirements.lock | cksum | cut -d' ' -f1)
QUICKSTART := notebooks/experiments/quickstart.yaml

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(INSTALLED) ## install what is missing and run the main job: expert, students, table, figures
	@$(BIN)/agentkit sweep $(QUICKSTART)

test: $(INSTALLED) ## install what is missing and run all tests but the slow ones
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(INSTALLED) ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow

bench: $(INSTALLED) ## measure speed beside the usual ways, into results/bench (a quarter of an hour)
	@$(BIN)/python -m bench

export: $(INSTALLED) ## notebooks -> package, cleaned
	@$(BIN)/nbdev-clean && $(BIN)/nbdev-export

notebooks: $(INSTALLED) ## run the lessons, tutorials and reports that are older than their code, and keep their outputs
	@$(BIN)/python tools/notebooks.py

readme: $(INSTALLED) ## run notebooks/index.ipynb and write README.md from it
	@$(BIN)/python tools/readme.py

figures: $(INSTALLED) ## draw the figures again from results/
	@$(BIN)/agentkit report $(QUICKSTART)

mlflow: $(INSTALLED) ## copy the results to MLflow and open its pages
	@$(BIN)/agentkit mlflow

lab: $(INSTALLED) ## open JupyterLab
	@$(BIN)/jupyter lab

clean: ## remove what can be rebuilt: the environment, built games, models
	rm -rf $(VENV) data build dist *.egg-info

lock: $(INSTALLED) ## pin all packages again, with hashes, and list their licences
	@$(BIN)/python tools/lock.py

# The stamp is named after the contents of the two files. Every package is checked against its hash in requirements.lock;
# torch comes by itself, because what it brings differs: nothing for the CPU, gigabytes for CUDA
$(INSTALLED):
	@test -n "$(PYTHON)" || { echo 'agentkit needs Python 3.11 or 3.12 (textworld does not run on 3.13): set PYTHON=/path/to/python'; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check -q '$(TORCH)'
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-* && touch $@
