"""Synthetic video sentences on disk, in the layouts that A2D Sentences and J-HMDB Sentences are distributed in."""

import csv
import functools
import io
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import h5py
import numpy as np
import scipy.io
from PIL import Image
from tqdm import tqdm

from .scenes import MOTIONS, Scene, check_sizes, render, sample_scene
from .sentences import Sentence, describe

# The number of a split is its `subset` in videoset.csv, where A2D itself uses 0 and 1, and part of every scene's seed.
SPLITS = {"train": 0, "test": 1, "validation": 2, "heldout": 3}
FPS = 8


def make_scene(
    split: str, index: int, seed: int = 0, size: int = 64, num_frames: int = 8, max_sentences: int = 6
) -> tuple[Scene, list[Sentence]]:
    """The scene number `index` of a split and its sentences, the same for the same arguments.

    At least one sentence has a referent; in the split "heldout" the first one refers to a held-out combination.
    """
    rng = np.random.default_rng((seed, SPLITS[split], index))
    while True:
        scene = sample_scene(rng, height=size, width=size, num_frames=num_frames, held_out=split == "heldout")
        sentences = describe(scene, rng, max_sentences=max_sentences)
        if sentences:
            return scene, sentences


def _encode_mp4(path: Path, frames: np.ndarray) -> None:
    """H.264 from frames (T, H, W, 3) uint8, the same bytes for the same frames."""
    options = {
        "crf": "12",
        "preset": "veryfast",
        # The default number of threads is that of the machine's cores. With macroblock trees, and with the algorithms
        # that x264 picks for the processor, encoding the same frames twice sometimes gives different bytes.
        "threads": "1",
        "x264-params": "mbtree=0:cpu-independent=1",
    }
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_a2d_masks(path: Path, masks: np.ndarray, labels: np.ndarray) -> None:
    """One annotated frame from masks (M, H, W) bool, of which those that show anything are written."""
    seen = np.flatnonzero(masks.any(axis=(1, 2)))
    boxes = []
    for mask in masks[seen]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1], rows[-1]))
    # MATLAB writes a file's dimensions in reverse and drops the last one where it is one.
    transposed = masks[seen].transpose(0, 2, 1).astype(np.uint8)
    content = {
        "instance": seen.astype(np.float64),
        "id": labels[seen].astype(np.float64),
        "reBBox": np.array(boxes, dtype=np.float64).reshape(-1, 4),
        "reMask": transposed[0] if len(seen) == 1 else transposed,
    }
    # With its usual times in them, two files of the same content would differ.
    with h5py.File(path, "w") as file:
        for name, data in content.items():
            file.create_dataset(name, data=data, track_times=False)


def _write_a2d_scene(
    split: str, index: int, root: Path, seed: int, size: int, num_frames: int, every: int, max_sentences: int
) -> tuple[list, list[list]]:
    """Writes one video; returns its row of videoset.csv and its rows of a2d_annotation.txt."""
    video_id = f"{split}_{index:06d}"
    scene, sentences = make_scene(split, index, seed, size, num_frames, max_sentences)
    frames, masks = render(scene)
    _encode_mp4(root / "Release" / "clips320H" / f"{video_id}.mp4", frames)
    folder = root / "text_annotations" / "a2d_annotation_with_instances" / video_id
    folder.mkdir()
    # A2D's `id` names actor and action; here it names the motion, which is all that a scene has of an action.
    labels = np.array([1 + MOTIONS.index(obj.motion) for obj in scene.objects])
    annotated = range(0, num_frames, every)
    for t in annotated:
        _write_a2d_masks(folder / f"{t + 1:05d}.h5", masks[t], labels)
    end = f"0:00:{num_frames / FPS:05.2f}"
    video = [video_id, labels[0], "0:00:00.00", end, size, size, num_frames, len(annotated), SPLITS[split]]
    return video, [
        [video_id, sentence.instances[0] if sentence.instances else "", sentence.text, sentence.kind]
        for sentence in sentences
    ]


def _write_jhmdb_scene(split: str, index: int, root: Path, seed: int, size: int, num_frames: int) -> list:
    """Writes one video; returns its row of jhmdb_annotation.txt."""
    video_id = f"{split}_{index:06d}"
    scene, sentences = make_scene(split, index, seed, size, num_frames)
    sentence = sentences[0]  # the first one always has a referent
    referent = sentence.instances[0]
    frames, masks = render(scene)
    action = scene.objects[referent].motion
    folder = root / "Rename_Images" / action / video_id
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t + 1:05d}.png")
    folder = root / "puppet_mask" / action / video_id
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    part_mask = np.ascontiguousarray(masks[:, referent].transpose(1, 2, 0)).astype(np.uint8)
    scipy.io.savemat(buffer, {"part_mask": part_mask}, do_compression=True)
    # The first 116 bytes are free text, in which scipy notes the time.
    content = b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]
    (folder / "puppet_mask.mat").write_bytes(content)
    return [video_id, sentence.text]


def _write_all(write: Callable, splits: dict[str, int], num_proc: int) -> list:
    """What `write(split, index)` returns for every scene, in order, computed by `num_proc` processes."""
    names = [split for split, count in splits.items() for _ in range(count)]
    indices = [index for count in splits.values() for index in range(count)]
    progress = functools.partial(tqdm, total=len(names), desc="Writing scenes", unit="scene")
    if num_proc == 1:
        return list(progress(map(write, names, indices)))
    # Forked workers need not import the package (and torch with it) again, which takes longer than the work of a small
    # set; they are forked by the call of map, before the progress bar starts a thread. Only Linux forks safely.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(num_proc, mp_context=context) as pool:
        return list(progress(pool.map(write, names, indices, chunksize=16)))


def _check(root: Path, splits: dict[str, int], size: int, num_frames: int, num_proc: int) -> None:
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}, splits are {', '.join(SPLITS)}")
    negative = [split for split, count in splits.items() if count < 0]
    if negative:
        raise ValueError(f"split {negative[0]!r} must have 0 or more videos, got {splits[negative[0]]}")
    if not sum(splits.values()):
        raise ValueError("nothing to write: every split has 0 videos")
    check_sizes(size, size, num_frames)
    if size % 2:
        raise ValueError(f"size must be even (H.264 halves the colours' resolution), got {size}")
    if num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, got {num_proc}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not an empty folder; name a new one or remove it")


def _write_csv(path: Path, rows: list[list]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_a2d_sentences(
    root: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    annotate_every: int = 2,
    max_sentences: int = 6,
    num_proc: int = 1,
) -> dict[str, int]:
    """Writes synthetic video sentences in the layout of A2D Sentences.

    `Release/videoset.csv`, `Release/clips320H/<id>.mp4`, `text_annotations/a2d_annotation.txt` (with a fourth column,
    `kind`; a sentence without a referent has no instance_id), `text_annotations/a2d_missed_videos.txt` (empty) and
    `text_annotations/a2d_annotation_with_instances/<id>/<frame:05d>.h5`. Video ids are `<split>_<index:06d>`.

    Args:
        root: a folder that is empty or does not exist.
        splits: videos a split, of "train", "test", "validation", "heldout" (subset 0, 1, 2, 3 in videoset.csv).
        seed: the same seed, arguments and library versions write the same bytes.
        size: height and width in pixels, even, at least 32.
        num_frames: frames a video (at 8 a second), at least 2.
        annotate_every: every so manieth frame, from the first on, has masks.
        max_sentences: at most so many sentences with a referent a video; half of the videos have one without, too.
        num_proc: processes; does not change what is written.

    Returns:
        Number of "videos" and of "sentences" written.

    Raises:
        FileExistsError: `root` is a file or a folder with something in it.
        ValueError: an argument out of its range.
    """
    root = Path(root)
    if annotate_every < 1:
        raise ValueError(f"annotate_every must be at least 1, got {annotate_every}")
    _check(root, splits, size, num_frames, num_proc)
    texts = root / "text_annotations"
    (root / "Release" / "clips320H").mkdir(parents=True)
    (texts / "a2d_annotation_with_instances").mkdir(parents=True)
    write = functools.partial(
        _write_a2d_scene,
        root=root,
        seed=seed,
        size=size,
        num_frames=num_frames,
        every=annotate_every,
        max_sentences=max_sentences,
    )
    written = _write_all(write, splits, num_proc)
    sentences = [row for _, rows in written for row in rows]
    _write_csv(root / "Release" / "videoset.csv", [video for video, _ in written])
    _write_csv(texts / "a2d_annotation.txt", [["video_id", "instance_id", "query", "kind"], *sentences])
    (texts / "a2d_missed_videos.txt").touch()
    return {"videos": len(written), "sentences": len(sentences)}


def write_jhmdb_sentences(
    root: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    num_proc: int = 1,
) -> dict[str, int]:
    """Writes synthetic video sentences in the layout of J-HMDB Sentences.

    `Rename_Images/<action>/<id>/<frame:05d>.png`, `puppet_mask/<action>/<id>/puppet_mask.mat` and
    `jhmdb_annotation.txt`. One sentence a video, and only its referent has masks, whatever else the scene shows. The
    action is the referent's motion. The layout knows no splits: they show in the ids, `<split>_<index:06d>`.

    Arguments, return value and errors as those of `write_a2d_sentences`.
    """
    root = Path(root)
    _check(root, splits, size, num_frames, num_proc)
    root.mkdir(parents=True, exist_ok=True)
    write = functools.partial(_write_jhmdb_scene, root=root, seed=seed, size=size, num_frames=num_frames)
    rows = _write_all(write, splits, num_proc)
    _write_csv(root / "jhmdb_annotation.txt", [["video_id", "query"], *rows])
    return {"videos": len(rows), "sentences": len(rows)}
