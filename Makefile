# Needs only make, git and Python 3.11 or 3.12; `make` alone lists the targets.
# A version manager may put commands in place that do not run, so each candidate is tried.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-gpu check check-lint check-format check-types check-docs format bench docs clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

install:  ## make or repair .venv: SGLang on the CPU, the tools, this project
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3.12 found" >&2; exit 1; }
	@$(PYTHON) scripts/install_cpu.py

demo: install  ## serve a small trained model with the real SGLang, without a GPU
	@$(BIN)/python -m sgl_indexcache.demo

test: install  ## run the tests; PYTEST_ARGS="-m 'not engine'" leaves the slow ones out
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --durations=15 $(PYTEST_ARGS)

test-gpu:  ## run the GPU tests with the python3 that has torch, SGLang, CUDA and this project
	python3 -P -m pytest tests/gpu $(PYTEST_ARGS)

check: check-lint check-format check-types check-docs  ## lint, formatting, types and docs (make -k check: all, whatever fails)

check-lint: install
	$(BIN)/ruff check

check-format: install
	$(BIN)/ruff format --check

check-types: install
	$(BIN)/mypy

# Strict: a dead link or anchor fails. The variable silences an advertisement; --quiet would silence warnings, and so pass.
check-docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: install  ## put the code into shape
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

bench: install  ## time the indexer on the CPU
	$(BIN)/python -m sgl_indexcache.bench.cpu_prefill

docs: install  ## write schema and pictures, and build the docs as a site in build/site
	$(BIN)/sgl-indexcache doctor --schema > docs/settings.schema.json.new
	@mv docs/settings.schema.json.new docs/settings.schema.json
	$(BIN)/python docs/pictures/draw.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html"

clean:  ## remove what was built and cached; the environment stays (rm -r .venv)
	rm -rf build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
