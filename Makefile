# Everything that is done with the project. A machine needs only Python 3.11 or newer and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
BENCH := .bench/environments
BATCHING := fastapi bentoml litserve mlserver
PEERS := fastapi bentoml litserve mlserver kserve $(if $(RAY),ray)

# Some images set it; each of the hundreds of processes that the tests start would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test check format lock clean bench bench-quick abuse torture wrk

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(INSTALLED) ## start the service on http://127.0.0.1:8000
	$(BIN)/weighbridge serve

test: $(INSTALLED) ## run all tests, and measure which lines and branches they reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(IN_PARALLEL)
	$(BIN)/coverage combine -q

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
	$(@D)/bin/pip install -q --disable-pip-version-check $(^:%=-r %)
	@touch $@

# Those that serve the models of the batched table, too.
$(BATCHING:%=$(BENCH)/%/installed): benchmarks/requirements/models.txt

lock: ## write requirements.lock anew from pyproject.toml
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q '.[dev]'
	$(BIN)/pip freeze --exclude weighbridge > requirements.lock

clean: ## remove the environment and every cache
	rm -rf .venv .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -r {} +

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
