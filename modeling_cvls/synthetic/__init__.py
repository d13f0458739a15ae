"""Synthetic video sentences: scenes of moving look-alike shapes with sentences that tell them apart."""

from .layouts import (
    SPLITS,
    make_scene,
    write_a2d_sentences,
    write_jhmdb_sentences,
    write_mevis,
    write_ref_davis17,
    write_refer_youtube_vos,
)
from .scenes import Scene, SceneObject, render, sample_scene
from .sentences import KINDS, Sentence, describe, referents

__all__ = [
    "KINDS",
    "SPLITS",
    "Scene",
    "SceneObject",
    "Sentence",
    "describe",
    "make_scene",
    "referents",
    "render",
    "sample_scene",
    "write_a2d_sentences",
    "write_jhmdb_sentences",
    "write_mevis",
    "write_ref_davis17",
    "write_refer_youtube_vos",
]
