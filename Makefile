# Shortcuts. Nothing needs make: README.md has the two commands, .ci/run everything else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test wide soak bench lint format types check clean

help:
	@echo "make demo    watch a bot being redeployed under load (about a minute)"
	@echo "make test    the fast tests"
	@echo "make wide    the wide tests"
	@echo "make soak    all matrices of faults, random faults, pauses (an hour and a half)"
	@echo "make bench   the benchmarks (about an hour; benchmarks/README.md)"
	@echo "make lint    ruff check, ruff format --check"
	@echo "make format  let ruff format and fix"
	@echo "make types   mypy --strict"
	@echo "make check   lint, types, test: before each commit"
	@echo "make clean   remove the environment and all caches"

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install -q -e '.[dev]'
	@touch $@

demo: $(BIN)/.installed
	$(BIN)/supervisor demo

test: $(BIN)/.installed
	$(BIN)/python -m pytest -m "not wide"

wide: $(BIN)/.installed
	$(BIN)/python -m pytest -m "wide and not deploy"

soak: $(BIN)/.installed
	BASTION_SOAK=1 $(BIN)/python -m pytest -m "soak or matrix" -s

bench: $(BIN)/.installed
	$(BIN)/python -m benchmarks

lint: $(BIN)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(BIN)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(BIN)/.installed
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
