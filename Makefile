# Commands for development. The first target that runs creates .venv.
#
#   make serve [MODEL=folder-or-hub-id] [PORT=3000] [ARGS="--max-total-tokens 2048"]
#   make check test        the checks and tests that CI runs
#   make dist bench test-long check-tpu clean

TORCH_SPEC ?= torch==2.13.0
MODEL ?=
PORT ?= 3000
ARGS ?=
BENCH_ARGS ?=
TEST_PROCESSES ?= 2

MEMBERS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard backends/*/pyproject.toml)))
BIN := .venv/bin
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python python3.13 python3.12 python3.11; do \
	$$p -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$p && break; done)

# The stamp depends on TORCH_SPEC, on the dependency tables and on the constraints. If one of them
# changes, the packages are installed again.
STAMP := .venv/installed-$(shell printf %s '$(TORCH_SPEC)' | cksum | cut -d' ' -f1)
CLIENTS_STAMP := .venv-clients/installed
LARGE_CLIENTS_STAMP := .venv-clients/installed-large
NODE_STAMP := .node-clients/installed
TPU_STAMP := .venv-tpu/installed
REAL_MODEL := .real-weights/smollm2/config.json
PROJECTS := pyproject.toml $(MEMBERS:%=%/pyproject.toml)

.PHONY: serve test test-long check check-tpu dist bench clean
.DELETE_ON_ERROR:

serve: $(STAMP)
	@exec $(BIN)/tgi serve $(MODEL) --port $(PORT) $(ARGS)

test: $(STAMP) $(CLIENTS_STAMP)
	$(BIN)/python -m pytest -q -m "not long" -n $(TEST_PROCESSES) --dist loadfile tests

# The clients for Node require npm. The real weights have 270 MB.
test-long: $(STAMP) $(LARGE_CLIENTS_STAMP) $(NODE_STAMP) $(REAL_MODEL)
	$(BIN)/python -m pytest -q -m long tests

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/core/house/test_budgets.py -s

# Compiles programs for TPUs on a machine without a TPU. libtpu contains the compiler, and the
# variables prevent it from searching for a chip.
check-tpu: $(TPU_STAMP)
	JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-8 \
		TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0 \
		.venv-tpu/bin/python tools/compile_for_tpus.py
	.venv-tpu/bin/python -m tgi.testing.conformance.matrix docs/backends

dist: $(STAMP)
	rm -rf dist build $(MEMBERS:%=%/build)
	for member in . $(MEMBERS); do $(BIN)/python -m build --wheel --outdir dist $$member || exit 1; done

bench: $(STAMP)
	$(BIN)/python benchmarks/serving.py $(BENCH_ARGS)

clean:
	rm -rf .venv .venv-clients .node-clients .venv-tpu .real-weights dist build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11, 3.12 or 3.13 is required. Name one with PYTHON=/path/to/python." >&2; exit 1; }
	@echo "Creating .venv with $(PYTHON)"
	$(PYTHON) -m venv .venv

$(STAMP): $(PROJECTS) constraints.txt | $(BIN)/python
	@echo "Installing $(TORCH_SPEC) and the workspace into .venv. The first time takes minutes."
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt "$(TORCH_SPEC)" -e ".[dev]" $(MEMBERS:%=-e %)
	@rm -f .venv/installed-* && touch $@

$(CLIENTS_STAMP): tests/compat/requirements-clients.txt | $(STAMP)
	$(BIN)/python -m venv .venv-clients
	.venv-clients/bin/python -m pip install --progress-bar on -r $<
	@touch $@

$(LARGE_CLIENTS_STAMP): tests/compat/requirements-clients-long.txt $(CLIENTS_STAMP)
	.venv-clients/bin/python -m pip install --progress-bar on -r $<
	@touch $@

$(NODE_STAMP): tests/compat/node/package.json
	@mkdir -p .node-clients
	cp $< .node-clients/
	npm install --prefix .node-clients --no-audit --no-fund
	@touch $@

$(REAL_MODEL): tools/real_weights.py | $(STAMP)
	rm -rf .real-weights
	$(BIN)/python $< .real-weights
	@touch $@

$(TPU_STAMP): backends/tpu/pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --progress-bar on -c constraints.txt -e . -e "backends/tpu[chip]"
	@touch $@
