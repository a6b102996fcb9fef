# Every target sets itself up in .venv on a machine that has Python with venv, a C++17 compiler and make.
#   make demo | test | bench | fidelity | lint | cuda-check | gpu-check [STAGE=build|test|sanitize|bench] | clean
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
TEST_WORKERS ?= 2
TEST_ARGUMENTS ?=
BENCH ?= sliced_ot
FIDELITY ?=
STAGE ?= all
CXX_FILES = $(shell find csrc tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help env demo test bench fidelity lint format cuda-check gpu-check clean distclean
.NOTPARALLEL:

help:
	@sed -n '1,2s/^# *//p' Makefile

env:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: env
	@$(RUN) -m cgm_models.demo

test: env
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest -n $(TEST_WORKERS) $(TEST_ARGUMENTS)

bench: env
	@$(RUN) -m benchmarks $(BENCH)

fidelity: env
	@$(RUN) -m fidelity $(FIDELITY)

lint: env
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	@$(RUN) -m mypy

format: env
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .
	@$(VENV)/bin/clang-format -i $(CXX_FILES)

cuda-check:
	@$(PYTHON) tools/cuda_check.py

gpu-check:
	@$(PYTHON) tools/gpu_check.py $(STAGE)

clean:
	rm -rf build dist *.egg-info cgm_kernels/_C.*.so cgm_kernels/_build_failure.txt
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

distclean: clean
	rm -rf .venv .venv-cuda
