"""Synthetic video sentences: scenes of moving look-alike shapes with sentences that tell them apart."""

from .layouts import (
    make_scene,
    write_a2d_sentences,
    write_jhmdb_sentences,
    write_mevis,
    write_ref_davis17,
    write_refer_youtube_vos,
)
from .long_scenes import LongScene, describe_parts, make_long_scene, sample_long_scene
from .scenes import SPLITS, Scene, SceneObject, render, sample_look_alikes, sample_scene
from .sentences import KINDS, Sentence, describe, look_alikes, referents

__all__ = [
    "KINDS",
    "SPLITS",
    "LongScene",
    "Scene",
    "SceneObject",
    "Sentence",
    "describe",
    "describe_parts",
    "look_alikes",
    "make_long_scene",
    "make_scene",
    "referents",
    "render",
    "sample_long_scene",
    "sample_look_alikes",
    "sample_scene",
    "write_a2d_sentences",
    "write_jhmdb_sentences",
    "write_mevis",
    "write_ref_davis17",
    "write_refer_youtube_vos",
]
