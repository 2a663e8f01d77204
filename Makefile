# make run | shell | compare | test | test-all | lint | dashboard | explore | benchmark
# An environment that is already prepared can be used instead of .venv: make run VENV= PYTHON=python3
VENV ?= .venv
PYTHON ?= $(if $(VENV),$(VENV)/bin/python,python3)
# Any Python from 3.11 to 3.13 makes the environment.
BOOTSTRAP ?= python3
STAMP := $(if $(VENV),$(VENV)/.installed)
ARGS ?=

.PHONY: run shell compare test test-all lint dashboard explore benchmark setup clean

setup: $(STAMP)

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): about 3 minutes, once"
	$(BOOTSTRAP) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,cluster,dashboard]'
	touch $@

run: setup
	$(PYTHON) train.py $(ARGS)

# The environment that the commands of the README are given in; Ctrl-D or exit leaves it.
shell: setup
	@echo "python is $(PYTHON) here; exit leaves this shell"
	@$(if $(VENV),VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(abspath $(VENV))/bin:$$PATH") $${SHELL:-/bin/sh}

compare: setup
	$(PYTHON) train.py -m experiment=compare sweep=compare $(ARGS)

test: setup
	$(PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

test-all: setup
	$(PYTHON) -m pytest -n 2 --dist loadfile -m "" $(ARGS)

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m scripts.encodings --check

dashboard: setup
	$(PYTHON) -m wandb leet runs/wandb

explore: setup
	$(PYTHON) -m scripts.explore $(ARGS)

benchmark: setup
	$(PYTHON) -m scripts.benchmark $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache
