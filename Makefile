# `make run` starts the service, `make check` does everything that is checked before a commit.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check format lint types bench lock clean

run: .venv/service
	$(BIN)/python app.py

test: .venv/tests
	$(BIN)/python -m pytest

check: format lint types test

format: .venv/tests
	$(BIN)/ruff format --check .

lint: .venv/tests
	$(BIN)/ruff check .

types: .venv/tests
	$(BIN)/mypy .

bench: .venv/service
	$(BIN)/python -m bench

# The locks hold for every Python that is supported and every platform.
lock: .venv/tests
	$(BIN)/pip install --quiet uv==0.13.8
	for name in requirements requirements-dev; do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
			--no-header --no-annotate $$name.in -o $$name.txt || exit 1; \
	done

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv .venv

.venv/service: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/tests: requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
