"""Sources of composites: flat gray boxes, synthetic scenes, and real videos where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import ROOT, SHARED
from modeling_cvls.synthetic import write_refer_youtube_vos

REAL_DAVIS = SHARED / "real_data" / "ref_davis"
NAMES = ROOT / "configs" / "ref_davis_names.json"
# Of the halves of the flat source: what surrounds the object, and the object itself.
GRAYS = {"first": (20, 90), "second": (255, 225)}


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> tuple[Path, dict]:
    """Four videos of 12 frames, every second one annotated: a gray box on gray, another gray in the second half."""
    root = tmp_path_factory.mktemp("flat")
    videos, names = {}, {}
    for number, noun in enumerate(["box", "crate", "chest", "parcel"]):
        video = f"video{number}"
        (root / "train" / "JPEGImages" / video).mkdir(parents=True)
        (root / "train" / "Annotations" / video).mkdir(parents=True)
        for t in range(12):
            around, inside = GRAYS["first" if t < 6 else "second"]
            mask = np.zeros((60, 100), dtype=np.uint8)
            mask[15:45, 20 + 2 * t : 40 + 10 * number + 2 * t] = 1
            picture = np.where(mask, inside, around).astype(np.uint8)
            Image.fromarray(picture).convert("RGB").save(
                root / "train" / "JPEGImages" / video / f"{t:05d}.jpg", quality=98
            )
            if t % 2 == 0:
                image = Image.fromarray(mask)
                image.putpalette([0, 0, 0, 255, 0, 0])
                image.save(root / "train" / "Annotations" / video / f"{t:05d}.png")
        expressions = {"0": {"exp": f"the gray {noun}", "obj_id": "1"}}
        videos[video] = {"expressions": expressions, "frames": [f"{t:05d}" for t in range(12)]}
        names[video] = {"1": noun, "*": ["bag", "parcel"] if number < 2 else []}
    meta = root / "meta_expressions" / "train"
    meta.mkdir(parents=True)
    (meta / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    return root, names


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> tuple[Path, dict]:
    """Synthetic scenes with several objects per video, each with a name of its own."""
    root = tmp_path_factory.mktemp("several") / "raw"
    write_refer_youtube_vos(root, {"train": 5}, seed=1, num_frames=12)
    names = {f"train_{number:06d}": {str(obj): f"thing{number}{obj}" for obj in range(1, 10)} for number in range(5)}
    return root, names


@pytest.fixture(scope="module")
def davis() -> tuple[Path, dict]:
    if not REAL_DAVIS.is_dir():
        pytest.skip(f"{REAL_DAVIS} is absent")
    return REAL_DAVIS, json.loads(NAMES.read_text())


@pytest.fixture(scope="module")
def stills(tmp_path_factory) -> Path:
    """Sixteen pictures of two colored boxes each, one of them of a breed of its own."""
    root = tmp_path_factory.mktemp("stills")
    (root / "JPEGImages").mkdir()
    (root / "Annotations").mkdir()
    objects = {}
    for number in range(16):
        mask = np.zeros((50, 70), dtype=np.uint8)
        mask[10:40, 5:25] = 1
        mask[15:40, 40:60] = 2
        picture = np.array([[250, 250, 250], [200, 20, 20], [240, 240, 240]], dtype=np.uint8)[mask]
        name = f"picture{number:02d}"
        Image.fromarray(picture).save(root / "JPEGImages" / f"{name}.jpg", quality=98, subsampling=0)
        image = Image.fromarray(mask)
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(root / "Annotations" / f"{name}.png")
        objects[name] = {"objects": {"1": [f"breed{number}", f"pet{number % 3}"], "2": [f"pet{number % 3}"]}}
    (root / "objects.json").write_text(json.dumps(objects))
    return root


@pytest.fixture
def source(request):
    """The source that `on_sources` names."""
    return request.getfixturevalue(request.param)
