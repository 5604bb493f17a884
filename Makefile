# `make run` starts the service, `make check` does everything that is checked before a commit but
# `make test-clients`, which installs published clients and runs them against the service, and
# `make test-model`, which installs a real model and runs the service over it.

PYTHON ?= python3
BIN := .venv/bin
CLIENTS_BIN := .venv-clients/bin
MODEL_BIN := .venv-model/bin
NODE_CLIENT := client_tests/node
NPM := $(shell command -v npm)
NPM_CI := npm ci --silent --ignore-scripts --no-audit --no-fund
# What npm installs for the page, and for the tests that drive it in a browser.
PAGE := $(if $(NPM),web/node_modules/installed)
BROWSER := $(if $(NPM),$(addsuffix /node_modules/installed,tests/browser tests/web) $(PAGE))
# What checks the JavaScript, which npm installs, too.
JS_TOOLS := tests/web/node_modules/.bin
JS_INSTALLED := $(if $(NPM),tests/web/node_modules/installed)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST_CLIENTS := -m pytest -c client_tests/pytest.ini --rootdir . -n 2
PYTEST_MODEL := -m pytest -c model_tests/pytest.ini --rootdir .

# `make check TESTS=coverage` measures what the tests reach, which takes a third longer.
TESTS ?= test

.PHONY: run test test-fast test-clients test-model coverage mutate mutate-sample check quick-check hooks format lint \
        lint-js types types-js bench lock clean

run: .venv/service $(PAGE)
	$(BIN)/python app.py

# For daily work, less than a minute: not what `tests/conftest.py` calls slow, and fewer examples.
test-fast: .venv/tests
	$(BIN)/python -m pytest -m "not slow" --hypothesis-profile fast

test: .venv/tests $(BROWSER)
	$(BIN)/python -m pytest

coverage: .venv/tests $(BROWSER)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Plausible one-line mistakes in the core, of which its tests have to see 90 %; see `tests/mutation`.
# `make mutate MUTATE="runs/ --minutes 5"` tries some of them.
mutate: .venv/tests
	$(BIN)/python -m tests.mutation $(MUTATE)

# Always the same few, for CI.
mutate-sample: .venv/tests
	$(BIN)/python -m tests.mutation --count 100

# The newest SDK of OpenAI is in the service's own environment.
test-clients: .venv/tests .venv-clients/installed $(NODE_CLIENT)/node_modules/installed
	$(BIN)/python $(PYTEST_CLIENTS) client_tests/test_openai_chat.py client_tests/test_openai_responses.py
	$(CLIENTS_BIN)/python $(PYTEST_CLIENTS) client_tests

# A small model on a real llama.cpp server; the tests themselves run in the service's environment.
test-model: .venv/tests .venv-model/installed
	$(BIN)/python $(PYTEST_MODEL) model_tests

check: format lint types $(TESTS)

# What the hook of `make hooks` does before each commit.
quick-check: format lint

hooks:
	git config core.hooksPath .githooks

format: .venv/tests
	$(BIN)/ruff format --check .

lint: .venv/tests lint-js
	$(BIN)/ruff check .

lint-js: $(JS_INSTALLED)
	$(if $(NPM),$(JS_TOOLS)/biome lint --error-on-warnings,@echo 'No npm: JavaScript is not linted.')

types: .venv/tests types-js
	$(BIN)/mypy .
	$(BIN)/mypy frontend/app.py

types-js: $(JS_INSTALLED)
	$(if $(NPM),$(JS_TOOLS)/tsc,@echo 'No npm: the types of the JavaScript are not checked.')

bench: .venv/service
	$(BIN)/python -m bench

# The locks hold for every Python that is supported and every platform.
lock: .venv/tests
	$(BIN)/pip install --quiet uv==0.13.8
	for name in requirements requirements-dev requirements-frontend requirements-clients \
			requirements-model; do \
		$(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
			--no-header --no-annotate $$name.in -o $$name.txt || exit 1; \
	done

clean:
	rm -rf .venv .venv-clients .venv-model $(NODE_CLIENT)/node_modules web/node_modules
	rm -rf tests/browser/node_modules tests/web/node_modules .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv .venv

.venv/service: requirements.txt | .venv/bin/python
	$(BIN)/python $(PIP_INSTALL) -r requirements.txt
	touch $@

.venv/tests: requirements-dev.txt | .venv/bin/python
	$(BIN)/python $(PIP_INSTALL) -r requirements-dev.txt
	touch $@

.venv-clients/installed: requirements-clients.txt | .venv/bin/python
	$(BIN)/python -m venv --clear .venv-clients
	$(CLIENTS_BIN)/python $(PIP_INSTALL) -r requirements-clients.txt
	touch $@

.venv-model/installed: requirements-model.txt | .venv/bin/python
	$(BIN)/python -m venv --clear .venv-model
	$(MODEL_BIN)/python $(PIP_INSTALL) -r requirements-model.txt
	touch $@

# Without a network the page shows its texts plain, and the service starts all the same.
web/node_modules/installed: web/package-lock.json
	-cd web && $(NPM_CI) && touch node_modules/installed

%/node_modules/installed: %/package-lock.json
	cd $* && $(NPM_CI)
	touch $@
