# `make demo` and `make test` need Python 3.10 or newer and nothing else: they make .venv with pinned versions.

PYTHON ?= python3
VENV   := .venv
PINS   := requirements/dev.txt
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# What the site and the notebooks need beside it.
DOCS   := $(VENV)/.docs-installed
# One process, said in full: without these answers accelerate asks for, or guesses, a configuration.
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test test-slow faults test-lowest test-next test-app test-common encoders test-wheel lint newer-python docs docs-examples bench cards release clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         train on the sample, offline, and show what the model says (under 5 minutes)"
	@echo "make test         run the test suite (under 10 minutes)"
	@echo "make test-slow    run the others: pages of docs, notebooks, launches, more models, a browser where there is one (ARGS=tests/export: a folder)"
	@echo "make test-lowest  run it with the lowest versions that setup.cfg allows (Python 3.10 to 3.12)"
	@echo "make test-next    run the Trainer's tests with the newest transformers that the registry has"
	@echo "make test-app     run the tests of the demo, in Chromium too (needs chromium and chromedriver)"
	@echo "make test-common  run transformers' own model tests on every model class (downloads its sources)"
	@echo "make encoders     check every architecture as an encoder and write docs/encoders.md"
	@echo "make test-wheel   build the wheel, install it into an empty environment and use it"
	@echo "make faults       kill, corrupt and overload every script and model (30 minutes; ARGS=--short: 2 minutes)"
	@echo "make lint         check style, format and types"
	@echo "make docs         run the Python of README, docs and docstrings, check links, and build the site (3 minutes)"
	@echo "make docs-examples run the commands of README and docs, page by page, and the notebooks (20 minutes)"
	@echo "make bench        measure and write docs/performance.md (under 15 minutes; ARGS='--again --rounds 3': anew, shorter)"
	@echo "make cards        write the cards of model_cards/ from the run files of docs/results/"
	@echo "make release      train the releases on public data (docs/releasing.md); ARGS='--push_to_hub True' publishes them"
	@echo "make clean        remove what was built, .venv, .venv-lowest, .venv-next and .venv-app too; outputs/ and runs/ stay"

$(STAMP): $(PINS) setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --requirement $(PINS)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# The script refuses a folder that holds another run, so the demo clears its own.
demo: $(STAMP)
	rm -rf outputs/demo
	HF_HUB_OFFLINE=1 $(LAUNCH) examples/run_tweets.py examples/demo.json

# Two processes, a file of tests each: the smallest machine that the suite is meant for has two cores.
test: $(STAMP)
	$(PYTEST) --numprocesses 2 --dist loadfile -m "not wheel and not slow"

# What `make test` leaves out for its time.
test-slow: $(STAMP)
	$(PYTEST) -m "slow and not wheel" $(ARGS)

# `make test` in an environment of its own.
test-lowest:
	$(MAKE) test VENV=$(VENV)-lowest PINS=requirements/lowest.txt

# The Trainer's tests in an environment of their own, with a transformers that setup.cfg may not allow yet.
test-next:
	$(MAKE) $(VENV)-next/.installed VENV=$(VENV)-next
	$(VENV)-next/bin/python -m pip install --disable-pip-version-check --upgrade transformers
	$(VENV)-next/bin/python -m pytest --numprocesses 2 --dist loadfile tests/training

# In an environment of its own, because Gradio needs an older Pillow.
test-app: BIN := $(VENV)-app/bin
test-app: newer-python
	$(MAKE) $(VENV)-app/.installed VENV=$(VENV)-app
	$(VENV)-app/bin/python -m pip install --disable-pip-version-check --requirement requirements/app.txt
	$(VENV)-app/bin/python -m pytest tests/app

test-common: $(STAMP)
	$(BIN)/python tests/common/run.py

# Every architecture of the installed transformers: about ten minutes.
encoders: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.encoders.run

test-wheel: $(STAMP)
	$(PYTEST) -m wheel tests/test_wheel.py

faults: $(STAMP)
	$(BIN)/python -m tests.faults $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Before anything is installed: requirements/docs.txt and requirements/app.txt need Python 3.11.
newer-python:
	@python=$(PYTHON); if [ -x $(BIN)/python ]; then python=$(BIN)/python; fi; \
	$$python -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed for this; name one and an environment: make docs PYTHON=python3.12 VENV=.venv-docs")'

$(DOCS): $(STAMP) requirements/docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements/docs.txt
	touch $@

# The site is docs/_build/html/index.html. Nothing is downloaded to build it, and every warning is an error.
docs: newer-python $(DOCS)
	$(PYTEST) tests/test_docs.py tests/test_site.py tests/test_public_names.py
	$(BIN)/python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet docs docs/_build/html

docs-examples: newer-python $(DOCS)
	$(PYTEST) tests/hub/test_documented_commands.py tests/test_notebooks.py

bench: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/report.py $(ARGS)

cards: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m reproduction.make_cards

release: $(STAMP)
	$(LAUNCH) -m reproduction.train_releases $(ARGS)

clean:
	rm -rf docs/_build docs/reference/generated
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-next $(VENV)-app .cache .pytest_cache .mypy_cache .ruff_cache build dist src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
