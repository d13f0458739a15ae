# Two commands for a new machine: `make demo` and `make test`. Each sets up its own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := outputs/demo

# glibc gives the memory of large tensors back and faults it in again at every step, which costs a third of the time of
# training on CPU; one thread pool a core for the two processes that make and convert the data
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export TOKENIZERS_PARALLELISM := false
export TRANSFORMERS_VERBOSITY ?= error

.PHONY: demo test test-fast lint docs clean

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

demo: $(VENV)/.ready
	rm -rf $(DEMO)
	@echo "==> 1/6 writing synthetic video sentences in the layout of A2D Sentences"
	$(BIN)/python scripts/make_synthetic.py --output $(DEMO)/raw --train 4000 --validation 60 --test 300 --heldout 200
	@echo "==> 2/6 converting them to a dataset that load_dataset loads"
	$(BIN)/python dataset_scripts/a2d_sentences.py --source $(DEMO)/raw --output $(DEMO)/dataset --num-proc 2
	@echo "==> 3/6 training a small segmenter on them"
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $$(nproc) \
		scripts/train.py configs/demo.yaml
	@echo "==> 4/6 evaluating it on the test split, which it never saw"
	$(BIN)/python scripts/eval.py --model $(DEMO)/checkpoint --dataset $(DEMO)/dataset --split test \
		--output $(DEMO)/metrics.json
	@echo "==> 5/6 loading the checkpoint anew and segmenting test clips through the pipeline; pictures and model card"
	$(BIN)/python scripts/report.py --model $(DEMO)/checkpoint --dataset $(DEMO)/dataset --split test \
		--metrics $(DEMO)/metrics.json --output $(DEMO) --dataset-name "CVLS synthetic video sentences" --synthetic
	@echo "==> 6/6 done:"
	@ls -1d $(DEMO)/checkpoint $(DEMO)/metrics.json $(DEMO)/training_curves.png $(DEMO)/overlay.mp4 \
		$(DEMO)/contact_sheet.png

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-fast: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) outputs site build dist
