# make demo | make test        both set up .venv on their first run; repeating costs nothing
# make fuzz MINUTES=60         random programs against eager; FUZZ="--gear native" and other arguments
# make test TORCH=torch==2.12.1      against another version; make compat: a few tests against each supported one

TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One stamp for each combination of requirements: another TORCH is another installation.
STAMP := $(VENV)/.installed-$(subst /,_,$(subst =,,$(TORCH)-$(TRITON)))

MINUTES ?= 60
FUZZ ?= --workers 2

COMPAT ?=

.PHONY: demo test compat fuzz bench lint format clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

compat:
	$(PYTHON) tests/compat.py $(COMPAT)

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(FUZZ)

bench: $(STAMP)
	$(BIN)/python -m bench --quick

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "setting up $(VENV) with $(TORCH) and $(TRITON)"
	rm -f $(VENV)/.installed-*
	$(BIN)/python -m pip install $(TORCH) $(TRITON)
	$(BIN)/python -m pip install --editable '.[test,examples]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
