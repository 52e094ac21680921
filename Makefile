# Everything that is done with the project. A machine needs only Python 3.11 or newer and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTHONS := 3.11 3.12 3.13
BIN := .venv/bin
# Two steps of one environment: what `make run` needs, and all the rest.
SERVING := .venv/serving
INSTALLED := .venv/installed
PIP_INSTALL := pip install -q --disable-pip-version-check
# The versions of the lock, also for the tool that builds the package: pip reads the second name for that since 25.3.
LOCKED := PIP_CONSTRAINT=requirements.lock PIP_BUILD_CONSTRAINT=requirements.lock
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
BENCH := .bench/environments
BATCHING := fastapi bentoml litserve mlserver
PEERS := fastapi bentoml litserve mlserver kserve $(if $(RAY),ray)

# Some images set it; each of the hundreds of processes that the tests start would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-pythons test-lowest check format lock clean bench bench-quick abuse torture wrk

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SERVING) ## start the service on http://127.0.0.1:8000
	$(BIN)/weighbridge serve

test: $(INSTALLED) ## run all tests, and measure which lines and branches they reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(IN_PARALLEL)
	$(BIN)/coverage combine -q

test-pythons: ## run all tests with every Python from 3.11 to 3.13 that is installed
	$(MAKE) $(foreach version,$(PYTHONS),$(shell python$(version) -c 'print("test-$(version)")' 2> /dev/null))

# Old libraries warn about new ones.
test-lowest: IN_PARALLEL += -W default
test-lowest: ## run all tests with the lowest versions of the dependencies that pyproject.toml allows

$(PYTHONS:%=test-%) test-lowest: test-%: .venvs/%/installed
	.venvs/$*/bin/python -m pytest $(IN_PARALLEL)

check: $(INSTALLED) ## lint, types, layers, and that the last tests reached every line and branch
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/coverage report

format: $(INSTALLED) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: wrk $(INSTALLED) $(BENCH)/report/installed $(PEERS:%=$(BENCH)/%/installed) ## measure beside the peers (RAY=1: Ray Serve too)
	$(BENCH)/report/bin/python -m benchmarks.run --publish $(if $(RAY),--with-ray)
	$(BIN)/python -m benchmarks.batched --publish
	$(BIN)/python -m benchmarks.stages --publish
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.runtimes --publish

bench-quick: wrk $(INSTALLED) $(BENCH)/report/installed $(BENCH)/fastapi/installed ## in a minute, beside FastAPI only
	$(BENCH)/report/bin/python -m benchmarks.run \
		--servers weighbridge fastapi constant --rounds 3 --seconds 1 --starts 1

abuse: $(INSTALLED) ## set hostile clients on the service, for some minutes
	$(BIN)/python -m benchmarks.abuse

torture: wrk $(INSTALLED) ## kill, stop, starve and overload the service; writes docs/reliability.md (SOAK=1: ten minutes more)
	$(BIN)/python -m benchmarks.torture --publish $(if $(SOAK),--soak)

wrk:
	@command -v wrk > /dev/null || { echo 'expected wrk, got none; on Debian: apt-get update && apt-get install wrk'; exit 1; }

$(BENCH)/%/installed: benchmarks/requirements/%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/$(PIP_INSTALL) $(^:%=-r %)
	@touch $@

# Those that serve the models of the batched table, too.
$(BATCHING:%=$(BENCH)/%/installed): benchmarks/requirements/models.txt

lock: ## write requirements.lock anew from pyproject.toml
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q '.[dev]'
	$(BIN)/pip freeze --exclude weighbridge > requirements.lock

clean: ## remove the environments and every cache
	rm -rf .venv .venvs .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -r {} +

# Python compiles the modules that it imports when it first does; to compile all of them here takes 3 s more.
$(SERVING): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(LOCKED) $(BIN)/$(PIP_INSTALL) --no-compile -e .
	@touch $@

$(INSTALLED): $(SERVING)
	$(BIN)/$(PIP_INSTALL) -r requirements.lock
	@touch $@

$(PYTHONS:%=.venvs/%/installed): .venvs/%/installed: requirements.lock pyproject.toml
	python$* -m venv --clear $(@D)
	$(LOCKED) $(@D)/bin/$(PIP_INSTALL) -r requirements.lock -e .
	@touch $@

.venvs/lowest/installed: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	grep -oE '"[a-z-]+>=[0-9.]+' $< | sed 's/"//; s/>=/==/' > $(@D)/lowest.txt
	$(@D)/bin/$(PIP_INSTALL) -c $(@D)/lowest.txt -e '.[dev]'
	@touch $@
