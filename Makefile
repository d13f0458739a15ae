# Two commands for a new machine: `make demo` and `make test`. Each sets up its own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := outputs/demo

# glibc gives the memory of large tensors back and faults it in again at every step, which costs a third of the time of
# training on CPU; one thread pool per core for the processes that make and convert the data
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export TOKENIZERS_PARALLELISM := false
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: demo test test-fast test-transformers lint docs clean

# Every version is pinned, so that pip has nothing to search for. Only PyTorch is installed with its dependencies: which
# ones it needs beside it differs between its builds for CPUs and for GPUs.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "==> setting up $(VENV): a minute or two, most of it the download of PyTorch"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --constraint constraints.txt torch setuptools
	@$(INSTALL) --no-deps --requirement constraints.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready constraints-dev.txt
	@echo "==> adding what tests and documentation need: about a minute"
	@$(INSTALL) --no-deps --requirement constraints-dev.txt
	@touch $@

# Two processes share the videos of a step: small networks leave threads idle. The times are those of two cores, quiet.
TWO := ACCELERATE_USE_CPU=true OMP_NUM_THREADS=$$((($$(nproc) + 1) / 2)) $(BIN)/torchrun --nproc-per-node 2 -m modeling_cvls

demo: $(VENV)/.ready
	rm -rf $(DEMO)
	@echo "==> 1/6 writing synthetic video sentences in the layout of A2D Sentences: about a minute"
	$(BIN)/cvls synthesize --output $(DEMO)/raw --train 3000 --validation 60 --test 300 --heldout 200
	@echo "==> 2/6 converting them to a data set that load_dataset loads: about a minute"
	$(BIN)/cvls convert a2d_sentences --source $(DEMO)/raw --output $(DEMO)/dataset
	@echo "==> 3/6 training a small segmenter on them: three to eight minutes"
	$(TWO) train configs/demo.yaml --training.per_device_train_batch_size 4
	@echo "==> 4/6 evaluating it on the test split, which it never saw, in two processes: about a minute"
	$(TWO) eval --model $(DEMO)/checkpoint --dataset $(DEMO)/dataset --split test \
		--output $(DEMO)/metrics.json
	@echo "==> 5/6 segmenting test clips through the pipeline; pictures and model card: less than a minute"
	$(BIN)/cvls report --model $(DEMO)/checkpoint --dataset $(DEMO)/dataset --split test \
		--metrics $(DEMO)/metrics.json --output $(DEMO) --dataset-name "CVLS synthetic video sentences" --synthetic
	@echo "==> 6/6 done:"
	@ls -1d $(DEMO)/checkpoint $(DEMO)/metrics.json $(DEMO)/training_curves.png $(DEMO)/overlay.mp4 \
		$(DEMO)/contact_sheet.png

# whole files, in the order of tests/conftest.py
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/python -m pytest -q $(WORKERS)

test-fast: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q $(WORKERS) -m "not slow"

# the common tests of the installed transformers, unchanged; where no package index is reached it says so and passes
test-transformers: $(VENV)/.ready-dev
	$(BIN)/python tests/common_tests/run.py -n 2 --dist loadscope

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) outputs site build dist
