# The commands a newcomer types. `make` alone lists them.
#
# .venv is made by the first target that needs it, with plain pip, from requirements files that pin
# every package by version and hash; it is brought up to date when one of those files changes.

PYTHON ?=
UV ?= uv
# Two processes on two cores; more than four only take memory from each other.
JOBS ?= auto
VENV := .venv
RUN := $(VENV)/bin/python

# Without bytecode every start of the program is three times slower.
unexport PYTHONDONTWRITEBYTECODE
# Packages found through these would hide what is missing from the requirements.
unexport PYTHONPATH
unexport PYTHONHOME
# A setting for a home directory of packages makes pip refuse or misplace what it installs.
unexport PIP_USER
unexport PIP_TARGET
unexport PIP_PREFIX

MADE := $(VENV)/.made
DEV := $(VENV)/.installed-dev
# requirements-dev.txt holds all of requirements.txt, so whoever has it needs nothing more.
APP := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.installed)

# A .venv whose interpreter has gone (moved, or upgraded away) is made again.
ifneq ($(shell test -x $(RUN) && echo yes),yes)
.PHONY: $(MADE)
endif

# The build tool comes first, by hash, because one package (promise) is published as source only.
INSTALL = $(RUN) -m pip install --compile --disable-pip-version-check --require-hashes
define install
@echo "installing $(1) into $(VENV) (once; a minute or two)"
@$(INSTALL) --quiet -r requirements-build.txt
@$(INSTALL) --quiet --no-build-isolation --use-pep517 -r $(1)
@touch $@
endef

.PHONY: help demo test detector lint lock clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | \
	  while IFS='|' read -r name text; do printf '%-14s %s\n' "$$name" "$$text"; done
	@echo "  PYTHON=/path/to/python3.12 chooses the Python that .venv is made with (3.11, 3.12 or 3.13)"

demo: $(APP) ## simulated genomes to a virus score and a report, in under two minutes
	@$(RUN) main.py demo $(ARGS)

test: $(DEV) ## the whole test suite (ARGS="tests/data_pipeline -k reading" for a part)
	@$(RUN) -m pytest -n $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

GENOMES ?=
detector: $(APP) ## train the shipped detector anew; needs GENOMES=/folder/of/genomes, and hours
	@test -n "$(GENOMES)" || { echo "make detector needs GENOMES=/folder/of/genomes; see docs/model_card.md" >&2; exit 2; }
	@for step in "prepare --config.root=$(GENOMES)" pretrain finetune evaluate; do \
	  $(RUN) main.py $$step --config=configs/detector.py --workdir=runs/detector || exit; done

SOURCES := $(wildcard main.py configs data_pipeline dnallm_jax benchmarks) tests/house.py
SCRIPTS := .ci/run .ci/make-venv $(wildcard launch/*.sh)

lint: $(DEV) ## style, types, shell scripts, and which room may import which
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy $(SOURCES)
	@$(VENV)/bin/shellcheck $(SCRIPTS)
	@$(RUN) -m pytest -q tests/test_doors.py

# The present pins are kept where they still fit; UPGRADE=--upgrade takes the newest versions.
# Each lock is bound by the one above it, so that all agree on every package they share; but for
# Beam's, which must have older versions of some.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-header $(UPGRADE)

lock: ## write the requirements files anew from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null 2>&1 || { echo "make lock needs uv (docs.astral.sh/uv); UV=/path/to/uv names one that is not on PATH" >&2; exit 1; }
	$(LOCK) --group build -o requirements-build.txt
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) pyproject.toml --extra dev -c requirements.txt -o requirements-dev.txt
	$(LOCK) pyproject.toml --extra tpu -c requirements.txt -o requirements-tpu.txt
	$(LOCK) pyproject.toml --extra cuda -c requirements.txt -o requirements-cuda.txt
	$(LOCK) pyproject.toml --extra bpe -c requirements.txt -o requirements-bpe.txt
	$(LOCK) pyproject.toml --extra tune -c requirements.txt -o requirements-tune.txt
	$(LOCK) pyproject.toml --extra cloud -c requirements.txt -o requirements-cloud.txt
	$(LOCK) pyproject.toml --extra beam -o requirements-beam.txt

clean: ## remove .venv, caches and build outputs (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/make-venv
	@touch $@

$(VENV)/.installed: requirements-build.txt requirements.txt $(MADE)
	$(call install,requirements.txt)

$(DEV): requirements-build.txt requirements.txt requirements-dev.txt $(MADE)
	$(call install,requirements-dev.txt)
