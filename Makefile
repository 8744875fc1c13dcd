# `make demo` and `make test` are all a newcomer needs; each prepares .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench figure clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,bench]"
	$(BIN)/python benchmarks/ppca.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/adult.py
	$(BIN)/python benchmarks/likelihoods.py
	$(BIN)/python benchmarks/density.py
	$(BIN)/python benchmarks/supervised.py
	$(BIN)/python benchmarks/clustering.py
	$(BIN)/python benchmarks/clustering.py --data fashion --seeds 5
	$(BIN)/python benchmarks/maps.py
	$(BIN)/python benchmarks/images.py --seeds 5
	$(BIN)/python benchmarks/imputation.py
	$(BIN)/python benchmarks/outliers.py
	$(BIN)/python benchmarks/tables.py

figure: $(STAMP)
	$(BIN)/python examples/figure.py docs/figure.png

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .bench .data
