# make book      set up, run the notebooks, build the site and print where it is   (PROFILE=smoke for the smallest size)
# make html      build the site of the published run in results/
# make test      set up and run every test
# make publish   copy a finished run to results/   (PROFILE=full; NB=05 for one chapter)
# make setup     only the set-up: .venv from requirements.lock, models and data into the user's cache
# make clean     remove what book and html wrote; runs/, results/ and .venv stay

PROFILE ?= laptop
NB ?=
TORCH_INDEX ?=
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
RUN = .venv/bin/python

.PHONY: book html test publish setup clean

book: setup
	@$(RUN) workflow/run.py --profile $(PROFILE)
	@$(RUN) workflow/build.py runs/$(PROFILE)

html: .venv/.ready
	@$(RUN) workflow/build.py results

test: setup
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

publish: PROFILE = full
publish: .venv/.ready
	@$(RUN) workflow/publish.py --profile $(PROFILE) $(if $(NB),--notebook $(NB))
	@$(RUN) workflow/readme_table.py

setup: .venv/.ready
	@$(RUN) -m irlkit.assets fetch

# The stamp is written last: a set-up that was cut short runs again and checks what it finds.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo >&2 \
	"error: Python 3.11 or newer, with venv, is needed$(if $(PYTHON),; $(PYTHON) is not that): make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) workflow/set_up.py $(TORCH_INDEX)

clean:
	rm -rf _build .pytest_cache
