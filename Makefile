# make demo sets everything up and shows every feature; make test sets everything up and runs the tests.
# Both need Python 3.11 or newer and git, and use uv if it is installed.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
FIND_PYTHON = test -n "$(PYTHON)" || { echo "Python 3.11 or newer is required, but was not found: install it, or run make PYTHON=/path/to/python"; exit 1; }
NO_VENV = { echo "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
BIN := .venv/bin

.PHONY: setup demo test test-again test-all test-fast sdks lint docs docs-serve reference wheel release simulate bench chaos audit clean help

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/ready  ## create .venv with all dependencies; quick if it is up to date

.venv/ready: requirements.txt pyproject.toml
	@$(FIND_PYTHON)
	@echo "setting up .venv (a minute or two, once)"
	@if command -v uv >/dev/null 2>&1; then \
		test -x $(BIN)/python || uv venv --quiet --python "$$(command -v $(PYTHON))" .venv; \
		uv pip install --quiet --python $(BIN)/python -r requirements.txt && \
		uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .; \
	else \
		test -x $(BIN)/pip || $(PYTHON) -m venv .venv || $(NO_VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	fi
	@touch $@

demo: setup  ## show every feature in two minutes, with a receiver that misbehaves
	@$(BIN)/resonant demo $(ARGS)

# The tests start hundreds of processes. Without cached bytecode, each would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

# Four processes take the test files in turn (see tests/conftest.py), since most tests wait. Tests with the mark alone
# run afterwards, in one process.
PROCESSES ?= 4
SHARDED := $(if $(SHARD),--shard $(SHARD))
PYTEST := -m pytest -n $(PROCESSES) --no-loadscope-reorder $(SHARDED)
RUN := $(if $(COVERAGE),$(BIN)/coverage run,$(BIN)/python)

test: setup  ## run the tests that are not slow; SHARD=1/3 runs a third of the files
	@$(BIN)/python $(PYTEST) -m "not slow and not alone" $(ARGS)

test-all: export TEST_PROGRAMS ?= $(PATH)
test-all: setup  ## run every test; COVERAGE=1 fails if they cover too little
	@rm -f .coverage*
	@$(RUN) $(PYTEST) -m "not alone" $(ARGS)
	@$(RUN) -m pytest -m alone $(SHARDED) $(ARGS) || test $$? = 5  # 5: ARGS selected no test
	@test -z "$(COVERAGE)" || { $(BIN)/coverage combine --quiet && $(BIN)/coverage report; }

N ?= 6
test-again: setup  ## run make test N times (6) in random orders, every second time beside stress-ng; FIRST=17 repeats them
	@$(BIN)/python tests/support/again.py --runs $(N) $(if $(FIRST),--first $(FIRST)) -- \
	  $(BIN)/python $(PYTEST) -m "not slow and not alone" $(ARGS)

test-fast: setup  ## run the tests that need no Prefect server
	@$(BIN)/python $(PYTEST) -m "not engine and not slow and not alone" $(ARGS)

lint: setup  ## run ruff, mypy, codespell and import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/codespell

docs: reference .venv/docs-ready  ## build the documentation site in build/site; refuse broken links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with --quiet, it ignores warnings
	@echo "make docs-serve shows it in a browser; opened as files, its pages have no search"

docs-serve: docs  ## serve the documentation site at http://127.0.0.1:8000
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

reference: setup  ## regenerate docs/reference/ from the code
	@$(BIN)/python -m docs.generate

# Extras of pyproject.toml that are installed on demand.
.venv/bench-ready .venv/docs-ready .venv/release-ready: .venv/%-ready: .venv/ready build/constraints.txt
	@echo "installing what make $* needs (once)"
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -c build/constraints.txt -e '.[$*]'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c build/constraints.txt -e '.[$*]'; \
	fi
	@touch $@

# Each is in a folder of its own: version 1 of cloudevents, which cloudevents-pydantic needs, hides the version in .venv.
SDKS := tests/support/sdks
sdks: build/sdks/ready  ## install the libraries in JavaScript and Python that some tests run

build/sdks/ready: .venv/ready $(SDKS)/package-lock.json $(SDKS)/requirements.txt
	@command -v npm >/dev/null || { echo "npm was not found: on Debian and Ubuntu, apt-get install npm"; exit 1; }
	@rm -rf build/sdks && mkdir -p build/sdks && cp $(SDKS)/package.json $(SDKS)/package-lock.json build/sdks
	@npm ci --prefix build/sdks --ignore-scripts --no-audit --no-fund --silent
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python --no-deps --target build/sdks/python -r $(SDKS)/requirements.txt; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/sdks/python \
			-r $(SDKS)/requirements.txt; \
	fi
	@touch $@

wheel: build/hatchling/ready  ## build the wheel and the sdist in dist/ from tracked files
	@rm -rf dist
	@build/hatchling/bin/python -m hatchling build -t sdist -t wheel

# An environment of its own, since users build the wheel, and need no environment with all dependencies for it.
build/hatchling/ready: build/constraints.txt
	@$(FIND_PYTHON)
	@rm -rf $(@D)
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --python "$$(command -v $(PYTHON))" $(@D) && \
		uv pip install --quiet --python $(@D)/bin/python -c build/constraints.txt hatchling; \
	else \
		$(PYTHON) -m venv $(@D) || $(NO_VENV); \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c build/constraints.txt hatchling; \
	fi
	@touch $@

# The same commit gives the same files: hatchling sets every time in them to a fixed one. The bill of materials lists the
# versions of requirements.txt, with which the tests ran.
RELEASE := build/release
release: .venv/release-ready  ## build and check the files of a release: make release TAG=v1.2.3
	@rm -rf $(RELEASE) && $(BIN)/python .ci/release.py "$(TAG)"
	@$(MAKE) --no-print-directory wheel
	@$(BIN)/twine check --strict dist/*
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --python $(BIN)/python $(RELEASE)/env && \
		uv pip install --quiet --python $(RELEASE)/env/bin/python -c build/constraints.txt dist/*.whl; \
	else \
		$(BIN)/python -m venv --without-pip $(RELEASE)/env && \
		$(BIN)/python -m pip --python $(RELEASE)/env/bin/python install --quiet --disable-pip-version-check \
			-c build/constraints.txt dist/*.whl; \
	fi
	@$(RELEASE)/env/bin/resonant --version
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		-o $(RELEASE)/resonant.cdx.json $(RELEASE)/env/bin/python
	@rm -rf $(RELEASE)/env && ls -1 dist/* $(RELEASE)/*

chaos: setup  ## run the long tests of kills, faults and fuzzing, in two hours
	@RESONANT_CHAOS=long RESONANT_CHAOS_REPORT=$${RESONANT_CHAOS_REPORT:-build/chaos.json} \
		RESONANT_FUZZ_EXAMPLES=$${RESONANT_FUZZ_EXAMPLES:-7000} \
		$(BIN)/python -m pytest --timeout 1800 tests/chaos tests/resonant/fuzz $(ARGS)

simulate: setup  ## simulate faults in virtual time for a minute; SEED=17 repeats one, MUTANTS=1 hunts planted bugs, SECONDS=600, DATABASE=postgresql
	@cd tests && ../$(BIN)/python -m simulation $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(MUTANTS),--mutants $(filter-out 1,$(MUTANTS))) \
	  $(if $(DATABASE),--database $(DATABASE)) $(ARGS)

bench: .venv/bench-ready  ## run every benchmark; one also needs redis-server
	@$(BIN)/python -m benches $(ARGS)

# Hashes are removed: with them, pip would require hashes of all other packages too.
build/constraints.txt: requirements.txt
	@mkdir -p build
	@sed '/^ /d; s/ \\$$//' requirements.txt > $@

audit: .venv/audit-ready  ## check requirements.txt for known vulnerabilities
	@found=$$($(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r requirements.txt 2>&1) && known=no || known=maybe; \
	case "$$known $$found" in \
		no*) echo "audit: no known vulnerability of any version in requirements.txt" ;; \
		*"Found "*" known vulnerabilit"*) printf '%s\n' "$$found"; exit 1 ;; \
		*) echo "audit: not done: $$(printf '%s\n' "$$found" | tail -n 1 | cut -c 1-200)" ;; \
	esac

.venv/audit-ready: .venv/ready build/constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv pip install --quiet --python $(BIN)/python -c build/constraints.txt 'pip-audit>=2.9'; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c build/constraints.txt 'pip-audit>=2.9'; \
	fi && touch $@ || true

clean:  ## remove .venv, caches and builds
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
