# `make demo` and `make test` need Python 3.11+ and a package index, nothing else.
#
# An installed torch is kept: to train on CUDA, put your build of torch into .venv first
# (python3 -m venv .venv && .venv/bin/pip install torch) and then use the same commands.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# vLLM wants a torch and a transformers of its own choice, so it gets an environment of its own.
VLLM_VENV ?= build/vllm-venv
VLLM_INSTALLED := $(VLLM_VENV)/.installed

.PHONY: demo test test-vllm lint types check clean

demo: $(INSTALLED)  ## Train a tiny model to guess numbers: a few minutes on a CPU.
	$(RUN) -m trainers.recipes.guess_number --updates 80 $(ARGS)

test: $(INSTALLED)  ## Run the tests.
	$(RUN) -m pytest $(ARGS)

test-vllm: $(VLLM_INSTALLED)  ## Test the sampler vllm against vLLM on this CPU: ten minutes on one core.
	PYTHONPATH=$(CURDIR) $(VLLM_VENV)/bin/python -m pytest tests/trainers/test_vllm_sampler.py $(ARGS)

lint: $(INSTALLED)  ## Style, and the direction of imports.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(INSTALLED)  ## Static types.
	$(VENV)/bin/mypy

check: lint types test  ## All of it.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@if $(RUN) -c 'import torch' 2>/dev/null; then \
		echo "Keeping the torch that is in $(VENV)."; grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	else cp constraints.txt $(VENV)/constraints.txt; fi
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

# TORCH_ARGS: where an index has several builds of torch, take the CPU's:
# make test-vllm TORCH_ARGS='--index-url https://download.pytorch.org/whl/cpu'
$(VLLM_INSTALLED): tests/vllm-requirements.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/vllm-requirements.txt
	touch $(VLLM_INSTALLED)

clean:  ## Remove the virtual environment and caches; runs/ stays.
	rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
