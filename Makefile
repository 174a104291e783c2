# make demo [DATA=folder]   the main job end to end on this machine; leaves its endpoint up
# make test                 every test
# make soak                 the tests that take minutes each: faults done to real runs
# make check                formatting, types, import rules, YAML
# make stop                 ends what `make demo` started

BIN := .venv/bin
PYTHON ?= python3
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
export SAM2_BUILD_CUDA := 0
export RAY_AUTH_MODE := token
INSTALLED := .venv/.installed

.PHONY: install demo test browser soak check stop

install: $(INSTALLED)

# sam2 builds in the environment itself, so torch has to be there first (see DESIGN: its isolated build would fetch gigabytes).
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --constraint constraints.txt torch setuptools wheel
	$(BIN)/uv pip install --quiet --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m sa2va_ray.demo run $(if $(DATA),--data '$(DATA)')

test: install browser
	$(BIN)/python -m pytest

# A test opens the page in a real browser. Where nobody may install one, that test fails and says so.
browser:
	command -v chromium chromium-browser >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } >/dev/null || true

soak: install
	$(BIN)/python -m pytest -m soak

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .

stop: install
	$(BIN)/python -m sa2va_ray.demo stop
