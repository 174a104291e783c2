# make demo [DATA=folder]   the main job end to end on this machine; leaves its endpoint up
# make test                 every test but those of `test-gpu` and `soak`
# make test-unit            those that start neither Ray nor a server: the quick look while you work
# make test-gpu             those that need a CUDA device
# make soak                 the tests that take minutes each: faults done to real runs
# make check                formatting, types, import rules, YAML, the documentation's links
# make docs                 the documentation as a site in docs/.site, English and Chinese
# make pictures             the pictures of the documentation, from a demo that runs
# make lock                 renews constraints.txt; then run `make check test` before you commit it
# make stop                 ends what `make demo` started

BIN := .venv/bin
PYTHON ?= python3
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
export SAM2_BUILD_CUDA := 0
export RAY_AUTH_MODE := token
# Where it is set, as in many containers, each of a run's processes compiles our modules anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALLED := .venv/.installed
# As pip does, uv trusts the certificates of the machine: a hospital's network often has one of its own.
UV_INSTALL = $(BIN)/uv pip install --quiet --system-certs --compile-bytecode --constraint .venv/constraints.txt \
	--build-constraint .venv/constraints.txt --constraint hashes.txt

# Of two halves that run at once each line says whose it is. Ctrl-C is for pytest, which ends what its fixtures started and
# says so: without a reader it would end at once.
SHELL := bash
.SHELLFLAGS := -o pipefail -c
labelled = $(if $(LABELLED),2>&1 | (trap '' INT; exec sed -u 's/^/$(1): /'))

.PHONY: install lock demo test test-unit test-cluster test-gpu browser soak check docs pictures stop

install: $(INSTALLED)

# `make install TORCH=2.11.0` takes another torch, and what goes with that one (setuptools, Triton, CUDA).
# sam2 builds in the environment itself, so torch has to be there first (its isolated build would fetch gigabytes), and a
# setuptools that makes wheels: an older torch is content with that of a new environment, which does not.
$(INSTALLED): pyproject.toml constraints.txt hashes.txt
	@echo '> install into .venv what constraints.txt names: minutes, most of them without a word'
	$(PYTHON) -m venv .venv
	sed -E '$(if $(TORCH),s/^torch==.*/torch==$(TORCH)/; /^(setuptools|triton|cuda-|nvidia-)/d)' constraints.txt >.venv/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint .venv/constraints.txt uv
	$(UV_INSTALL) torch 'setuptools>=70.1'
	$(UV_INSTALL) --editable '.[dev]'
	touch $@

# Without the wheels on this machine's disk: what stands in constraints.txt has to be there for everybody.
lock: install
	env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --upgrade --universal --all-extras --no-annotate \
		--no-emit-index-url --custom-compile-command 'make lock' pyproject.toml --output-file constraints.txt

demo: install
	$(BIN)/python -m sa2va_ray.demo run $(if $(DATA),--data '$(DATA)')

# Both at once: those on a cluster wait for processes to start for a third of their time.
test: install browser
	$(MAKE) --jobs=2 LABELLED=1 test-unit test-cluster

# A file's tests stay in one process, since they share what its fixtures make. As nice as Ray's workers, which would get
# nothing beside them.
test-unit: install
	OMP_NUM_THREADS=1 nice -n 15 $(BIN)/python -m pytest -m unit --numprocesses auto --maxprocesses 4 --dist loadfile $(call labelled,unit)

test-cluster: install browser
	$(BIN)/python -m pytest -m 'cluster and not soak and not gpu' $(call labelled,cluster)

test-gpu: install
	$(BIN)/python -m pytest -m gpu

# A test opens the page in a real browser. Where nobody may install one, that test fails and says so.
browser:
	command -v chromium chromium-browser >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } >/dev/null || true

# nnU-Net, which only its own soak tests need, draws in 500 MB. nginx stands in front of the endpoint in some.
soak: install
	command -v nginx >/dev/null || test -e /usr/sbin/nginx || { apt-get update -q && apt-get install -q -y --no-install-recommends nginx-light; } >/dev/null || true
	$(UV_INSTALL) --editable '.[nnunet]'
	$(BIN)/python -m pytest -m soak

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .
	$(MAKE) docs

# The English build empties docs/.site, so it goes first. The Chinese pages show the pictures of docs/en.
docs: install
	for language in en zh; do $(BIN)/zensical build --strict --clean -f docs/$$language.toml || exit 1; done
	mkdir docs/.site/en && cp -r docs/en/pictures docs/.site/en

pictures: install browser
	$(BIN)/python -m docs.pictures

stop: install
	$(BIN)/python -m sa2va_ray.demo stop
