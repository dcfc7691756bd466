# Every target sets itself up on a machine that has Python and nothing else.
#
#   make demo     stream a rendered video through the small trained model
#   make test     the suite, doctests included; needs no torch
#   make test-slow  scripts and laws that take long: a training, an ablation
#   make lint     ruff check, ruff format --check, mypy
#   make parity   compare live with torch and transformers
#   make format   apply ruff's formatting and safe fixes
#
# Another interpreter: make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
PARITY_VENV ?= $(VENV)-parity
RUNS ?= runs
PYTEST_ARGS ?=
# Most of a test's time is compilation, which uses one core.
PYTEST_JOBS ?= 2

comma := ,
PIP_INSTALL = -m pip install -qq --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: demo test test-slow lint parity format clean

# One stamp per environment and set of extras; a changed pyproject.toml renews
# it. The stamp is written last, so that a failed install is tried again.
$(VENV)/%.stamp: pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): vrex_jax[$(subst +,$(comma),$*)]"
	@$(VENV)/bin/python $(PIP_INSTALL) --editable ".[$(subst +,$(comma),$*)]"
	@touch $@

$(PARITY_VENV)/parity.stamp: pyproject.toml
	@test -x $(PARITY_VENV)/bin/python || $(PYTHON) -m venv $(PARITY_VENV)
	@echo "Installing into $(PARITY_VENV): vrex_jax[test,parity]"
	@$(PARITY_VENV)/bin/python $(PIP_INSTALL) --editable ".[test,parity]"
	@touch $@

demo: $(VENV)/hf+plot+video.stamp
	test -f $(RUNS)/rooms.mp4 || \
	  $(VENV)/bin/python -m vrex_jax.tasks.rooms_film --out $(RUNS)/rooms.mp4
	$(VENV)/bin/python experiments/stream_video.py \
	  --video $(RUNS)/rooms.mp4 --policy "full | resv" \
	  --question "60: colour-now - - ?" --out $(RUNS)/demo
	$(VENV)/bin/python experiments/answer_film.py \
	  --film $(RUNS)/rooms.mp4 --policy "full | sliding_window | resv"

test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest -m "not parity and not slow" -n $(PYTEST_JOBS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest -m slow -n $(PYTEST_JOBS) $(PYTEST_ARGS)

lint: $(VENV)/test+lint.stamp
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

parity: $(PARITY_VENV)/parity.stamp
	$(PARITY_VENV)/bin/python -m pytest -m parity $(PYTEST_ARGS)

format: $(VENV)/test+lint.stamp
	$(VENV)/bin/ruff check --fix-only
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) $(PARITY_VENV) build dist *.egg-info
