# Needs: Python 3.11 or newer with venv, and make. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test lint bench evidence kill deb deb-test docs clean
venv: .venv/installed

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "identityd needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: venv
	$(BIN)/identityd demo

test: venv
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --fail-under=100

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m tests.benchmarks

# Each claim of docs/explanation/evidence.md at full size; an hour or two in all.
evidence: venv
	$(BIN)/identityd explore
	$(BIN)/python -m tests.mutation
	$(BIN)/python -m tests.crash
	$(BIN)/python -m tests.service.kill_anywhere --kills 2000 --roots 4
	$(BIN)/python -m tests.rogue
	$(BIN)/python -m tests.fuzz --minutes 10
	$(BIN)/python -m tests.clocks
	$(BIN)/python -m tests.fleet --devices 100000
	$(BIN)/python -m tests.simulation
	$(BIN)/python -m tests.service.soak

kill: venv
	$(BIN)/python -m tests.service.kill_anywhere --kills 200

# A Debian package for this machine's architecture and Python; needs dpkg-deb.
deb: venv
	packaging/build-deb.sh

# The package in a clean Debian, and in a booted one. Needs root, and mmdebstrap or debootstrap (and the archive
# they ask, the first time); systemd-nspawn to boot.
deb-test: venv
	IDENTITYD_CLEAN_ROOT=1 $(BIN)/python -m pytest tests/packaging

docs: venv
	$(BIN)/python -m docs.generate

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
