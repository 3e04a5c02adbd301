# Everything that can be asked of this project; `make` alone lists it.

PROFILE ?= quick
DATASET ?= scenes
METHODS ?=
SEEDS ?=
EPOCHS ?=
IMAGES ?=
DATA_ROOT ?=
PARTS ?=
FRESH ?=
JOBS ?= all
EXECUTOR ?= local
VARIABLES := PROFILE DATASET METHODS SEEDS EPOCHS IMAGES DATA_ROOT PARTS FRESH JOBS EXECUTOR \
	PYTHON
# What is given reaches programs through the environment alone, letter by letter: as "$$DATA_ROOT"
# no shell reads its quotes, blanks or back ticks, and make does not read its dollars.
override .of = $(foreach one,$(2),$(if $(filter $(1),$(firstword $(origin $(one)))),$(one)))
override UNKNOWN := $(call .of,command,$(.VARIABLES))
$(foreach one,$(UNKNOWN) $(call .of,environment,$(VARIABLES)),\
	$(eval override $(one) := $$(value $(one))))
ifeq ($(origin PYTHON),undefined)
# The first Python on this machine that the pinned packages support.
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$p && break; done)
endif
export $(VARIABLES) UNKNOWN

STAMP := .venv/.installed
# Recipes, notebook kernels and the batch run's jobs all find the environment's programs first, and
# this folder's code, whatever PYTHONPATH the user has.
IN_VENV := PATH="$$PWD/.venv/bin:$$PATH" VIRTUAL_ENV="$$PWD/.venv" \
	PYTHONPATH="$$PWD$${PYTHONPATH:+:$$PYTHONPATH}"
# Not every shell has put the home's name for a tilde.
TILDE := case "$$PYTHON" in "~/"*) PYTHON="$$HOME/$${PYTHON\#??}";; esac;
# One thread a process: two processes side by side, and numbers that do not depend on the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# No lock of the folder, which a killed batch would leave behind: each run has a lock of its own,
# which the system takes back. Whatever a failed job has finished is kept, and the other jobs go
# on. A record is made again only when it is missing, whatever else has changed since.
# On a cluster JOBS are those that are submitted, by default as many as its profile says.
SUBMITTED := $(if $(filter-out all,$(JOBS)),--jobs "$$JOBS")
SIDE_BY_SIDE := $(if $(filter slurm,$(EXECUTOR)),$(SUBMITTED),--cores "$$JOBS")
PLACE := $(if $(filter-out local,$(EXECUTOR)),--profile "workflow/profiles/$$EXECUTOR")
SNAKEMAKE := snakemake --snakefile workflow/Snakefile $(PLACE) $(SIDE_BY_SIDE) --nolock \
	--rerun-incomplete --keep-incomplete --keep-going --rerun-triggers mtime \
	--quiet host rules reason

# What was made, beside the committed records. Another processor's numbers are no failure.
COMPARE = python -m kdlib verify --runs runs || [ $$? -ne 2 ]

.PHONY: help check install reproduce study test lab notebooks bench gpu faults lock clean
# Prerequisites in the order written: arguments are checked before anything is installed.
.NOTPARALLEL:

help:
	@echo "make reproduce   train, draw, compare with the records; tell what the study found"
	@echo "make study       the parts of the study: the runs that have no committed record"
	@echo "make test        lint, types, unit tests, and every notebook re-executed and compared"
	@echo "make lab         JupyterLab on the notebooks"
	@echo "make notebooks   re-execute the notebooks and store their outputs"
	@echo "make bench       every speed of this machine, and whether the goals are met"
	@echo "make gpu         what a GPU can do in 12 minutes: the study's methods, steps, floors"
	@echo "make faults      kill it, fill its disk, damage its files: the whole fault suite"
	@echo "make lock        pin the newest packages that requirements/*.in allow"
	@echo "make clean       remove the environment and caches; runs/ is kept"
	@echo
	@echo "make reproduce takes (defaults in brackets)"
	@echo "  PROFILE    what the batch consists of [quick]"
	@echo "  DATASET    [scenes]"
	@echo "  METHODS    such as student,at,dct+kd [the profile's]"
	@echo "  SEEDS      such as 0,1,2 [the profile's]"
	@echo "  EPOCHS     of teachers and students, such as 1 for a trial [the profile's]"
	@echo "  IMAGES     to train with, such as 1000 for a trial [the profile's]"
	@echo "  DATA_ROOT  folder of the real data sets [the variable KDLIB_DATA]"
	@echo "make study takes PARTS, such as 'tune confirm' [all]; FRESH, parts to be made again though they"
	@echo "are committed; DATA_ROOT; and, as make reproduce,"
	@echo "  JOBS       jobs side by side [all: one a core]"
	@echo "  EXECUTOR   where they run: local, gpus (each on a GPU of its own), slurm [local]"
	@echo "Any target takes PYTHON, 3.11 to 3.13 [$$PYTHON]. Interrupt and repeat at will."
	@echo
	@$(TILDE) "$$PYTHON" workflow/check_arguments.py --valid

check:
	@$(TILDE) command -v "$$PYTHON" >/dev/null 2>&1 || { printf "%s '%s' %s\n" "No program" \
		"$$PYTHON" "is here; name a Python 3.11 to 3.13: make PYTHON=..." >&2; exit 2; }; \
		"$$PYTHON" workflow/check_arguments.py

install: check $(STAMP)

$(STAMP): requirements/lock.txt requirements/bootstrap.txt pyproject.toml workflow/install.sh
	@$(TILDE) bash workflow/install.sh "$$PYTHON"
	@touch $@

reproduce: install
	@$(IN_VENV) python -m kdlib data check "$$DATASET" $${DATA_ROOT:+"--data-root=$$DATA_ROOT"}
	@$(IN_VENV) $(SNAKEMAKE) --config "profile=$$PROFILE" "dataset=$$DATASET" \
		"methods=$$METHODS" "seeds=$$SEEDS" "epochs=$$EPOCHS" "images=$$IMAGES"
	@$(IN_VENV) $(COMPARE)
	@[ "$$PROFILE" != quick ] || $(IN_VENV) python -m kdlib results

# A part that fails does not keep the next from being made.
study: install
	@trap 'exit 130' INT; parts=$$($(IN_VENV) python -m kdlib study "$$PARTS" "--fresh=$$FRESH") || exit; \
	for part in $$parts; do echo "$$part:"; $(IN_VENV) $(SNAKEMAKE) \
		--config "part=$$part" "fresh=$$FRESH" -- records || failed=1; done; \
	$(IN_VENV) $(COMPARE) && exit $${failed:-0}

# Files stay whole, so that what several tests of one share is made once, and in order: notebooks,
# the longest, come first, so that neither process waits at the end.
test: install
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy
	$(IN_VENV) $(ONE_THREAD) pytest -n 2 --dist loadfile --no-loadscope-reorder \
		--nbval --nbval-current-env notebooks tests

lab: install
	$(IN_VENV) jupyter lab notebooks

notebooks: install
	@for notebook in notebooks/[0-9]*.ipynb notebooks/batch/*.ipynb notebooks/solutions/*.ipynb; do \
		$(IN_VENV) python -m kdlib run "$$notebook" --store || exit 1; \
	done

bench gpu: install
	@VIRTUAL_ENV="$$PWD/.venv" bash workflow/uv.sh pip install --quiet --require-hashes \
		--requirement requirements/bench.txt
	@$(IN_VENV) python -m $(if $(filter gpu,$@),workflow.gpu,benchmarks)

# One process: what becomes of each trial is counted. What must not end in a traceback is tried
# many times more often than in `make test`.
faults: install
	@$(IN_VENV) $(ONE_THREAD) KDLIB_FAULTS_TO=benchmarks/results/faults.json pytest -q \
		-m "slow_faults or not slow_faults" tests/faults

lock:
	bash workflow/lock.sh

clean:
	rm -rf .venv .bootstrap .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
