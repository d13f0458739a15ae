"""Prints the peak memory after evaluating a tenth of a data set and all of it, by two protocols: `MODEL DATASET`."""

import resource
import sys

import torch
from datasets import load_from_disk
from transformers import AutoModel, AutoProcessor

import modeling_cvls  # noqa: F401  registers the model and the processor
from modeling_cvls.evaluation import evaluate_segmenter

torch.set_num_threads(1)
model, processor = AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
dataset = load_from_disk(sys.argv[2])
for protocol in ("a2d", "ref_davis17"):
    for number in (len(dataset) // 10, len(dataset)):
        evaluate_segmenter(model, processor, dataset.select(range(number)), 0.0, progress=False, protocol=protocol)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
