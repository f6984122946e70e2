# Everything is done from here; `make help` lists it.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
TOOLKITS := $(VENV)-sagemaker
# Tests mostly wait for servers, so one more process than there are cores.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); [ $$cores -lt 4 ] && echo $$((cores + 1)) || echo 4)
# The tests start hundreds of Python processes; without a cache of bytecode each would compile the code anew.
export PYTHONDONTWRITEBYTECODE :=
# They reach the recipes as variables of the shell, so that spaces and quotes in them stay what they are.
export DATA COUNTS LIMIT
.DEFAULT_GOAL := help
.PHONY: help demo quick test toolkits e2e check proof bench up down

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 8

demo: $(READY) ## the main job on this machine; ONCE=1 ends by itself, DATA= COUNTS= LIMIT= choose the photos
	@$(PY) scripts/demo.py $(if $(ONCE),--once) $(if $(DATA),--data "$$DATA") $(if $(COUNTS),--counts "$$COUNTS") $(if $(LIMIT),--limit "$$LIMIT")

quick: $(READY) ## the unit tests, in seconds
	@OMP_NUM_THREADS=1 $(PY) -m pytest tests/unit -n logical --maxprocesses 4 --dist loadfile --durations=15

test: $(READY) toolkits ## all tests that this machine can run
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not e2e and not alone" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15
	@$(PY) -m pytest -m alone --durations=15 $$(grep -rl --include='test_*.py' pytest.mark.alone tests)

toolkits: $(READY) ## AWS's toolkits for the tests, in an environment of their own
	@$(MAKE) --no-print-directory $(TOOLKITS)/.ready || echo "without $(TOOLKITS), whose packages need a C compiler, some tests are skipped"

e2e: $(READY) ## the tests in containers; needs Docker
	@$(PY) -m pytest -m e2e -n 2 --dist loadfile --durations=15

check: $(READY) ## ruff, mypy strict, tests
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(MAKE) test

proof: $(READY) toolkits ## what takes long: every round of the tests that CI samples, then the benchmarks
	@BINWATCH_PROOF=1 $(PY) -m pytest -m "not e2e"
	@BINWATCH_PROOF=1 $(PY) -m pytest -s tests/e2e/test_faults.py tests/e2e/test_swarm.py tests/e2e/test_front.py
	@$(MAKE) bench

bench: $(READY) ## all benchmarks against their peers; DATA= the photos
	@for name in fetch gate loader serve swap monitor novelty recount train precision tune; do $(PY) scripts/bench.py $$name $(if $(DATA),--data "$$DATA"); done

up: ## start the containers and wait until they are healthy
	@docker compose up --build --wait || { docker compose logs --no-log-prefix settings; exit 1; }

down: ## stop the containers; volumes are kept
	docker compose down

$(READY): requirements/*.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; found $$($(PYTHON) --version)"; exit 1; }
	@echo "setting up $(VENV) (some minutes and about 6 GB the first time)"
	@$(PYTHON) -m venv $(VENV)
	@# bytecode is written when a module is first imported: most of these are never
	@$(PY) -m pip install --no-compile --quiet --disable-pip-version-check -r requirements/test.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# It sees the first environment's packages: torch and its like are there once.
$(TOOLKITS)/.ready: requirements/sagemaker*.txt $(READY)
	@echo "setting up $(TOOLKITS) (half a minute)"
	@$(PY) -m venv --clear --without-pip $(TOOLKITS)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$$($(TOOLKITS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	@$(PY) -m pip --python $(TOOLKITS)/bin/python install --quiet --disable-pip-version-check --no-build-isolation -r requirements/sagemaker.txt
	@touch $@
