"""Synthetic video sentences on disk, in the layouts of the data sets that `cvls convert` takes."""

import csv
import functools
import io
import json
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

from ..rle_cvls import encode_masks
from .scenes import MOTIONS, SPLITS, Scene, check_sizes, render, sample_look_alikes, sample_scene
from .sentences import ANNOTATORS, Sentence, describe, describe_by_annotators, describe_together

FPS = 8
# What the layouts of other sets call the split "validation"; the others they call as they are called here.
YOUTUBE_VOS_VALIDATION = "valid"
MEVIS_VALIDATION = "valid_u"  # the one whose masks MeViS publishes
# Colors of the pixels of palette images, which are for looking at only.
_PALETTE = [0, 0, 0, 222, 42, 38, 44, 178, 60, 40, 90, 232, 238, 214, 46, 164, 52, 196, 242, 242, 240]


def make_scene(
    split: str,
    index: int,
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    max_sentences: int = 6,
    look_alikes: bool = False,
) -> tuple[Scene, list[Sentence]]:
    """The scene number `index` of a split and its sentences, the same for the same arguments.

    At least one sentence has a referent; in the split "heldout" the first one refers to a held-out combination. With
    `look_alikes`, a scene of that benchmark, where every referent has two or more objects beside it that differ from it
    in exactly one attribute, which the sentence names.
    """
    rng = np.random.default_rng((seed, SPLITS[split], index))
    sample = sample_look_alikes if look_alikes else sample_scene
    while True:
        scene = sample(rng, height=size, width=size, num_frames=num_frames, held_out=split == "heldout")
        sentences = describe(scene, rng, max_sentences=max_sentences, min_look_alikes=2 if look_alikes else 0)
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


def write_a2d_masks(path: Path, masks: np.ndarray, labels: np.ndarray) -> None:
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
    split: str, index: int, root: Path, seed: int, size: int, num_frames: int, every: int, look_alikes: bool
) -> tuple[list, list[list]]:
    """Writes one video; returns its row of videoset.csv and its rows of a2d_annotation.txt."""
    video_id = f"{split}_{index:06d}"
    scene, sentences = make_scene(split, index, seed, size, num_frames, look_alikes=look_alikes)
    frames, masks = render(scene)
    _encode_mp4(root / "Release" / "clips320H" / f"{video_id}.mp4", frames)
    folder = root / "text_annotations" / "a2d_annotation_with_instances" / video_id
    folder.mkdir()
    # A2D's `id` names actor and action; here it names the motion, which is all that a scene has of an action.
    labels = np.array([1 + MOTIONS.index(obj.motion) for obj in scene.objects])
    annotated = range(0, num_frames, every)
    for t in annotated:
        write_a2d_masks(folder / f"{t + 1:05d}.h5", masks[t], labels)
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


def _write_frames(folder: Path, frames: np.ndarray) -> list[str]:
    """Writes `<number:05d>.jpg` and returns the names without ending."""
    folder.mkdir(parents=True)
    names = [f"{t:05d}" for t in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=98, subsampling=0)
    return names


def _write_palette_scene(
    split: str, index: int, root: Path, seed: int, size: int, num_frames: int, every: int, annotators: bool
) -> tuple[str, str, dict]:
    """Writes one video; returns its split, id and entry of meta_expressions.json."""
    video_id = f"{split}_{index:06d}"
    scene, sentences = make_scene(split, index, seed, size, num_frames)
    if annotators:
        sentences = describe_by_annotators(scene, np.random.default_rng((seed, SPLITS[split], index, ANNOTATORS)))
    frames, masks = render(scene)
    split = YOUTUBE_VOS_VALIDATION if split == "validation" else split
    names = _write_frames(root / split / "JPEGImages" / video_id, frames)
    folder = root / split / "Annotations" / video_id
    folder.mkdir(parents=True)
    for t in range(0, num_frames, every):
        # Masks are the visible parts, so no pixel belongs to two objects.
        indices = sum(mask * np.uint8(m + 1) for m, mask in enumerate(masks[t]))
        image = Image.fromarray(indices)
        image.putpalette(_PALETTE)
        image.save(folder / f"{names[t]}.png")
    # The layout has no sentences without a referent.
    said = [(sentence.text, sentence.instances[0]) for sentence in sentences if sentence.instances]
    expressions = {str(n): {"exp": text, "obj_id": str(m + 1)} for n, (text, m) in enumerate(said)}
    return split, video_id, {"expressions": expressions, "frames": names}


def _write_mevis_scene(
    split: str, index: int, root: Path, seed: int, size: int, num_frames: int
) -> tuple[str, str, dict, list[list]]:
    """Writes one video; returns its split, id, entry of meta_expressions.json (anno_id: numbers of its objects) and the
    masks of its objects."""
    video_id = f"{split}_{index:06d}"
    scene, sentences = make_scene(split, index, seed, size, num_frames)
    sentences += describe_together(scene, np.random.default_rng((seed, SPLITS[split], index, 0)))
    frames, masks = render(scene)
    split = MEVIS_VALIDATION if split == "validation" else split
    names = _write_frames(root / split / "JPEGImages" / video_id, frames)
    lists = []
    for visible in masks.transpose(1, 0, 2, 3):  # (T, H, W) of each object
        lists.append(
            [
                {"size": list(visible.shape[1:]), "counts": counts} if seen else None
                for counts, seen in zip(encode_masks(visible), visible.any(axis=(1, 2)).tolist(), strict=True)
            ]
        )
    expressions = {
        str(n): {"exp": sentence.text, "obj_id": list(sentence.instances), "anno_id": list(sentence.instances)}
        for n, sentence in enumerate(sentences)
    }
    return split, video_id, {"expressions": expressions, "frames": names}, lists


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
        raise ValueError(f"size must be even (H.264 halves the colors' resolution), got {size}")
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
    look_alikes: bool = False,
    num_proc: int = 1,
) -> dict[str, int]:
    """Writes synthetic video sentences in the layout of A2D Sentences.

    `Release/videoset.csv`, `Release/clips320H/<id>.mp4`, `text_annotations/a2d_annotation.txt` (with a fourth column,
    `kind`; a sentence without a referent has no instance_id), `text_annotations/a2d_missed_videos.txt` (empty) and
    `text_annotations/a2d_annotation_with_instances/<id>/<frame:05d>.h5`. Video ids are `<split>_<index:06d>`.

    Args:
        root: a folder that is empty or does not exist.
        splits: videos per split, of "train", "test", "validation", "heldout" (subset 0, 1, 2, 3 in videoset.csv).
        seed: the same seed, arguments and library versions write the same bytes.
        size: height and width in pixels, even, at least 32, not 48 or 72.
        num_frames: frames per video (8 per second), at least 2.
        annotate_every: one frame in so many has masks, the first one among them.
        look_alikes: scenes of the look-alikes benchmark, see `make_scene`.
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
    if size in (48, 72):
        raise ValueError(
            f"size must be another one than {size}: decord cannot read videos exactly 48 or 72 pixels wide"
        )
    _check(root, splits, size, num_frames, num_proc)
    texts = root / "text_annotations"
    (root / "Release" / "clips320H").mkdir(parents=True)
    (texts / "a2d_annotation_with_instances").mkdir(parents=True)
    options = {"size": size, "num_frames": num_frames, "every": annotate_every, "look_alikes": look_alikes}
    written = _write_all(functools.partial(_write_a2d_scene, root=root, seed=seed, **options), splits, num_proc)
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
    `jhmdb_annotation.txt`. One sentence per video, and only its referent has masks, whatever else the scene shows. The
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


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        json.dump(content, file)


def _by_split(written: list[tuple]) -> dict[str, list[tuple]]:
    splits: dict[str, list[tuple]] = {}
    for split, *rest in written:
        splits.setdefault(split, []).append(tuple(rest))
    return splits


def _write_palette_layout(
    root: str | Path,
    splits: dict[str, int],
    seed: int,
    size: int,
    num_frames: int,
    num_proc: int,
    every: int,
    annotators: bool,
) -> dict[str, int]:
    root = Path(root)
    if every < 1:
        raise ValueError(f"annotate_every must be at least 1, got {every}")
    _check(root, splits, size, num_frames, num_proc)
    write = functools.partial(
        _write_palette_scene,
        root=root,
        seed=seed,
        size=size,
        num_frames=num_frames,
        every=every,
        annotators=annotators,
    )
    written = _write_all(write, splits, num_proc)
    for split, videos in _by_split(written).items():
        _write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": dict(videos)})
    return {"videos": len(written), "sentences": sum(len(video["expressions"]) for _, _, video in written)}


def write_refer_youtube_vos(
    root: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    annotate_every: int = 2,
    num_proc: int = 1,
) -> dict[str, int]:
    """Writes synthetic video sentences in the layout of Refer-YouTube-VOS.

    `<split>/JPEGImages/<id>/<frame:05d>.jpg`, `<split>/Annotations/<id>/<frame:05d>.png` (palette images, index =
    number of the object from 1) and `meta_expressions/<split>/meta_expressions.json`. "validation" is called valid.
    Unlike in the original, every split has masks. The layout has no sentences without a referent and no kinds.

    Arguments, return value and errors as those of `write_a2d_sentences`.
    """
    return _write_palette_layout(root, splits, seed, size, num_frames, num_proc, annotate_every, annotators=False)


def write_ref_davis17(
    root: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    num_proc: int = 1,
) -> dict[str, int]:
    """Writes synthetic video sentences in the layout of Ref-DAVIS17.

    As `write_refer_youtube_vos`, but every frame is annotated, and each object that can be told apart is described
    four times, one after the other (see `describe_by_annotators`).

    Arguments, return value and errors as those of `write_a2d_sentences`.
    """
    return _write_palette_layout(root, splits, seed, size, num_frames, num_proc, every=1, annotators=True)


def write_mevis(
    root: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    size: int = 64,
    num_frames: int = 8,
    num_proc: int = 1,
) -> dict[str, int]:
    """Writes synthetic video sentences in the layout of MeViS.

    `<split>/JPEGImages/<id>/<frame:05d>.jpg`, `<split>/meta_expressions.json` and `<split>/mask_dict.json`.
    "validation" is called valid_u. Unlike in the original, every split has masks. Most videos have a sentence with
    several referents (see `describe_together`), and half of them one without.

    Arguments, return value and errors as those of `write_a2d_sentences`.
    """
    root = Path(root)
    _check(root, splits, size, num_frames, num_proc)
    write = functools.partial(_write_mevis_scene, root=root, seed=seed, size=size, num_frames=num_frames)
    written = _write_all(write, splits, num_proc)
    for split, videos in _by_split(written).items():
        masks: dict[str, list] = {}
        for _, video, lists in videos:
            first = len(masks)  # anno_ids count through the split
            for expression in video["expressions"].values():
                expression["anno_id"] = [first + number for number in expression["anno_id"]]
            masks.update({str(first + number): rles for number, rles in enumerate(lists)})
        _write_json(root / split / "meta_expressions.json", {"videos": {name: video for name, video, _ in videos}})
        _write_json(root / split / "mask_dict.json", masks)
    return {"videos": len(written), "sentences": sum(len(video["expressions"]) for _, _, video, _ in written)}
