"""Writes the mask logits of four frames of a video: segment_clip.py CHECKPOINT VIDEO OUTPUT.npy SENTENCE ..."""

import sys

import numpy
import torch
from transformers import AutoModel, AutoProcessor

import modeling_cvls

torch.set_num_threads(1)
checkpoint, video, output, *sentences = sys.argv[1:]
model, processor = AutoModel.from_pretrained(checkpoint).eval(), AutoProcessor.from_pretrained(checkpoint)
frames = modeling_cvls.FrameReader(video).read(range(4))
with torch.no_grad():
    numpy.save(output, model(**processor(videos=frames, text=sentences)).mask_logits.numpy())
