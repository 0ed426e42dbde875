# make demo   the whole story on this machine, in a browser
# make test   everything that must hold: format, lint, types, tests, a smoke run of the demo
# Both set themselves up in .venv, from PyPI only.
# make test-browser   the pages in a real Chromium, which it installs where it may (Debian, as root)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080

.PHONY: demo test test-browser format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/signup-sidecar demo --port $(PORT)

test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest
	$(BIN)/signup-sidecar demo --smoke

test-browser: $(VENV)/.installed-dev
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "skipped: no chromium on PATH, and it cannot be installed here (apt-get install chromium, as root)"
	@! command -v chromium >/dev/null || $(BIN)/pytest -m browser

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A Debian without python3-venv has no ensurepip; it is one package, and the message says so.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Signup Sidecar needs Python 3.11 or newer; set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed: install python3-venv, or set PYTHON=…" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml build_hook.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# pip reads [dependency-groups] from 25.1 on; an older one is lifted inside .venv first.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
