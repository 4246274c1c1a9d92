# Two commands set everything up on a machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo install test docs lint format clean

demo: $(VENV)/installed  ## the whole chain on two generated slides, ends with a report to look at
	@$(BIN)/ds2c demo --project $(DEMO) $(DEMO_FLAGS)

install: $(VENV)/installed

# A file of tests stays on one process, where it shares its fixtures; a thread for each, or torch's get in one another's way.
test: $(VENV)/installed-for-tests lint  ## lint, types and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

docs: $(VENV)/installed-for-tests  ## links of all pages; every command of the README, and what it prints
	$(BIN)/python -m pytest tests/test_docs.py tests/test_readme.py

lint: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck examples/*.sh examples/slurm/*

format: $(VENV)/installed-for-tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(PIP) install --constraint constraints.txt --editable '.[cluster,test]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) .mypy_cache .pytest_cache .ruff_cache
