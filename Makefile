# Every target first makes what it needs by itself; a second call starts at once.
# VENV is where the virtual environment is, PYTHON the interpreter it is made with, ARGS goes to pytest or benchmarks.

VENV ?= .venv
PYTHON ?=
ARGS ?=
BIN = $(VENV)/bin

# Production settings that a check can load without a database or a `.env`.
PRODUCTION = ENV_FILE=/dev/null DEVELOPMENT=false DATABASE_URL=django.db.backends.dummy:// \
	SECRET_KEY=only-for-this-check-FtYq3mRk8sVw2ZpLx7Nd5Hc9Jb4Gu6Ta1 ALLOWED_HOSTS=example.com
DEVELOPMENT = ENV_FILE=/dev/null DEVELOPMENT=true DATABASE_URL=django.db.backends.dummy://

.PHONY: run test lint format bench chaos lock clean

run:
	@$(call install,requirements.txt)
	@exec $(BIN)/python manage.py dev

test:
	@$(call install,requirements-dev.txt)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint:
	@$(call install,requirements-dev.txt)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(DEVELOPMENT) $(BIN)/mypy .
	$(BIN)/lint-imports --no-logo
	$(DEVELOPMENT) $(BIN)/python manage.py makemigrations --check --dry-run
	$(PRODUCTION) $(BIN)/python manage.py check --deploy --fail-level WARNING

format:
	@$(call install,requirements-dev.txt)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench:
	@$(call install,requirements-dev.txt)
	@$(BIN)/python -m benchmarks $(ARGS)

# N executions and FAULTS faults; SEED repeats a run.
chaos:
	@$(call install,requirements-dev.txt)
	@$(BIN)/python -m chaos $(if $(N),--n $(N)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The development lock takes the versions of the other, so it holds all of that one too.
lock:
	@$(call install,requirements-dev.txt)
	$(COMPILE) -o requirements.txt
	$(COMPILE) --group dev -c requirements.txt -o requirements-dev.txt
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header pyproject.toml

clean: # keeps .local, which has your data
	rm -rf $(VENV) staticfiles benchmarks/results .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,LOCK) brings the virtual environment to what LOCK names. A stamp in it holds the lock's checksum.
# A lock is complete, so --no-deps: older pips would else look for the newest of what is asked for with extras.
define install
	stamp="$(VENV)/.$(1)"; sum=$$(cksum < $(1)); \
	if [ "$$(cat "$$stamp" 2>/dev/null)" != "$$sum" ] || ! $(BIN)/python -c "" 2>/dev/null; then \
		echo "Installing $(1) into $(VENV), this once ..." >&2; \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(find_python) && "$$found" -m venv --clear $(VENV); } || exit 1; \
		$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r $(1) || exit 1; \
		for name in requirements.txt $(1); do cksum < $$name > "$(VENV)/.$$name"; done; \
	fi
endef

# Some Pythons exist as a name only (pyenv's shims), so each is tried.
define find_python
	for found in $(or $(PYTHON),python3.12 python3.11 python3) ""; do \
		"$$found" -c "import sys, venv; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && break; \
	done; \
	[ -n "$$found" ] || { echo "Python 3.11 or newer is needed. Install it, or name it: make PYTHON=/path/to/python" >&2; false; }
endef
