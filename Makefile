# make demo   trains on the embedded data set; make test   runs the tests
# (make test-all: slow ones too).
# Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: demo test test-all lint clean

.venv/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m imcl_tf.main --dataset=scenes --workdir=$(DEMO)

test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-all: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile -m ""

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv runs build *.egg-info
