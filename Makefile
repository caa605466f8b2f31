# make demo      trains on the embedded data set
# make test      checks the code and runs the tests
# make test-all  runs the slow tests too
# make fuzz      reads 100,000 damaged files: half an hour; FUZZ="--seed=1 csv"
# make lint      checks style (ruff) and types (mypy)
# make docs      builds the documentation into build/site/
# make matrix    runs the tests in a fresh environment per Python version, and
#                with the oldest allowed versions of all requirements
# make clean     removes what these targets have made
# They install what they need into .venv, make matrix into build/matrix.
PYTHON ?= python3
BIN := .venv/bin
# uv downloads and unpacks side by side: a fifth of pip's time.
INSTALL := $(BIN)/uv pip install --quiet --python
DEMO := runs/demo
MATRIX := build/matrix
VERSIONS := 3.11 3.12 3.13
# As many as cores: tests wait for programs they start, but each further process
# imports everything once more. A process takes up to 5 GB.
PYTEST := -m pytest --numprocesses=2 --dist=loadfile
# The first program compiles the packages for all others.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test pytest test-all fuzz lint style types docs matrix
.PHONY: matrix-oldest clean
.PHONY: $(VERSIONS:%=matrix-%)

$(BIN)/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv

.venv/installed: setup.py pyproject.toml | $(BIN)/uv
	$(INSTALL) .venv -e '.[test,lint]'
	touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) .venv -e '.[docs]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m imcl_tf.main --dataset=scenes/small --workdir=$(DEMO) \
		--image_size=32 --initial_epochs=3 --epochs=2

# Types are checked while pytest starts, which keeps one core busy.
test: .venv/installed style
	$(MAKE) --no-print-directory --jobs=2 types pytest

pytest: .venv/installed
	$(BIN)/python $(PYTEST) --no-loadscope-reorder --durations=10

test-all: .venv/installed lint
	$(BIN)/python $(PYTEST) --durations=10 -m ""

fuzz: .venv/installed
	$(BIN)/python -m tests.fuzz $(FUZZ)

lint: style types

style: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/mkdocs build --strict --site-dir build/site

# The interpreter of a version: on PATH, else the last one of pyenv, else none.
python_of = $(or $(shell python$(1) -c \
	'import sys; print(sys.executable)' 2>/dev/null),$(lastword $(sort \
	$(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python))))

matrix:
	@$(foreach v,$(VERSIONS),$(if $(call python_of,$(v)),$(MAKE) matrix-$(v),\
	echo "Python $(v) is not installed: skipped") && )$(MAKE) matrix-oldest

$(VERSIONS:%=matrix-%): matrix-%: $(BIN)/uv
	rm -rf $(MATRIX)/$*
	$(call python_of,$*) -m venv $(MATRIX)/$*
	$(INSTALL) $(MATRIX)/$* -e '.[test]'
	$(MATRIX)/$*/bin/python $(PYTEST)

# Old releases warn about each other, so their warnings are not errors.
matrix-oldest: $(BIN)/uv
	rm -rf $(MATRIX)/oldest
	$(call python_of,3.11) -m venv $(MATRIX)/oldest
	$(INSTALL) $(MATRIX)/oldest --resolution=lowest-direct -e '.[test]'
	$(MATRIX)/oldest/bin/python $(PYTEST) --override-ini=filterwarnings=default

clean:
	rm -rf .venv runs build *.egg-info
