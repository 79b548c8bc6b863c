# Windows: run this inside WSL, or take environment.yml with conda (its first line says how).
PY := .venv/bin/python
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)
NOTEBOOKS := $(sort $(shell find notebooks -name '*.ipynb' -not -path '*/release/*' -not -path '*/source/*' -not -path '*/.*' 2>/dev/null))
# Two test processes with one thread each: more threads than cores slow each other down.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help lab explore test setup browser sandbox notebooks release grade feedback formgrader tables lock format bench
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1 \t/p' Makefile

lab: setup ## open the first lesson in JupyterLab
	$(PY) -m jupyterlab --ip=127.0.0.1 $(ROOT_FLAG) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

explore: setup ## open the explorers as web pages without code
	$(PY) -m voila --Voila.ip=127.0.0.1 notebooks/explore

test: setup browser sandbox ## everything that CI runs
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(ONE_THREAD) $(PY) -m pytest -q -n 2 --nbval $(NOTEBOOKS) tests

setup: ## create .venv from the lock; does nothing when it is up to date
	@sh tools/setup.sh

browser: ## install chromium for the browser test where that is possible
	@sh tools/browser.sh

sandbox: ## install bubblewrap, in which submissions are graded, where that is possible
	@sh tools/sandbox.sh

notebooks: setup ## run every notebook and write its outputs
	$(PY) tools/execute_notebooks.py $(NOTEBOOKS)

# The rest of these four is in notebooks/assignments/README.md; COURSE is the folder that they write.
COURSE ?= course
GRADING := PYTHONPATH=tools $(PY) -m grading --course "$(COURSE)"

release: setup ## make the students' notebooks and the solutions from the assignments' sources
	$(GRADING) release

grade: setup sandbox ## grade a folder of submissions: make grade SUBMISSIONS=folder [COURSE=] [DEADLINE=] [JOBS=] [AGAIN=1]
	$(if $(SUBMISSIONS),,$(error Say which folder to grade: make grade SUBMISSIONS=folder))
	@$(GRADING) grade "$(SUBMISSIONS)" $(if $(DEADLINE),--deadline "$(DEADLINE)") $(if $(SANDBOX),--sandbox $(SANDBOX)) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(AGAIN),--again)

feedback: setup ## write a page for each graded submission
	@$(GRADING) feedback

formgrader: setup ## open nbgrader's formgrader, to grade by hand what asks for words
	cd "$(COURSE)" && "$(CURDIR)/$(PY)" -m jupyterlab --ip=127.0.0.1 $(ROOT_FLAG) --LabApp.default_url=/formgrader \
		--ServerApp.jpserver_extensions=nbgrader.server_extensions.formgrader=True

tables: setup ## build the shipped memory tables anew, a quarter of an hour
	$(PY) tools/make_tables.py

lock: setup ## resolve requirements.lock anew from pyproject.toml
	$(PY) -m pip install -q uv
	$(PY) -m uv pip compile -q --upgrade --universal --python-version 3.11 --fork-strategy fewest --all-extras \
		--no-annotate --custom-compile-command "make lock" pyproject.toml -o requirements.lock

format: setup ## format code and notebooks, and fix what can be fixed
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: setup ## times and memory on this machine, kept in data/measured/bench.txt
	$(PY) tools/bench.py | tee data/measured/bench.txt
