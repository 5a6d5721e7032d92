# Two commands do everything on a machine with Python 3.11, make and git: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint types imports check fuzz bench clean help

help:
	@echo "make demo     install, then run six simulated months on real images"
	@echo "make test     install, then check style, types, layers and run every test"
	@echo "make fuzz     200,000 damaged images, others each time: for the night"
	@echo "make bench    figures and ratios of tests/benchmarks"
	@echo "make clean    stop the demo's services and remove what was made"

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; install Python 3.11 or set PYTHON=" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip==26.3
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	@touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/perennial demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	PYTHONPATH=. $(BIN)/lint-imports

check: lint types imports

test: check
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-branch --cov-report=term

fuzz: export PERENNIAL_FUZZ_IMAGES ?= 200000
fuzz: export PERENNIAL_FUZZ_SEED := $(or $(PERENNIAL_FUZZ_SEED),$(shell date +%s))
fuzz: $(INSTALLED)
	@echo "again with PERENNIAL_FUZZ_SEED=$(PERENNIAL_FUZZ_SEED) make fuzz"
	$(BIN)/python -m pytest -n 0 tests/property/test_data_decode_hostile.py

bench: $(INSTALLED)
	for file in tests/benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:
	-test -x $(BIN)/perennial && test -d .demo && $(BIN)/perennial --workspace .demo down
	rm -rf .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
