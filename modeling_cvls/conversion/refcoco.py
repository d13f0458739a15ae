"""RefCOCO, RefCOCO+ and RefCOCOg, as downloaded -> a folder that `datasets.load_dataset` loads.

    cvls convert refcoco --source RAW --output DATASET --dataset refcoco+

RAW holds

    <dataset>/refs(<split-by>).p    a pickle: [{image_id, ann_id, split, sentences: [{sent, sent_id, ...}], ...}]
    <dataset>/instances.json        COCO's annotations of the pictures
    images/mscoco/images/train2014  COCO's pictures (or train2014; --images names another folder)

Each picture becomes a video of one frame, with all its annotated objects. The pickle is read by an unpickler that
knows plain types only: it runs no code.

Download and terms: https://github.com/lichengunc/refer (sentences), https://cocodataset.org (pictures, masks)
"""

import pickle
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from .arguments import Conversion
from .card import Description
from .coco import read_instances, still
from .files import reading, show
from .own import AnnotatedVideo, Sentence, convert_video
from .problems import Problems

SPLITS = ("train", "validation", "test", "testA", "testB")
# What the refs call a split that others call validation.
NAMES = {"val": "validation"}
#: Each data set with the split of it that results are published on.
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
TITLES = {"refcoco": "RefCOCO", "refcoco+": "RefCOCO+", "refcocog": "RefCOCOg"}
IMAGE_FOLDERS = (Path("images", "mscoco", "images", "train2014"), Path("train2014"))
CITATIONS = """
@inproceedings{yu2016modeling,
  title     = {Modeling Context in Referring Expressions},
  author    = {Yu, Licheng and Poirson, Patrick and Yang, Shan and Berg, Alexander C. and Berg, Tamara L.},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2016}
}

@inproceedings{mao2016generation,
  title     = {Generation and Comprehension of Unambiguous Object Descriptions},
  author    = {Mao, Junhua and Huang, Jonathan and Toshev, Alexander and Camburu, Oana and Yuille, Alan and
               Murphy, Kevin},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2016}
}
"""


class PlainUnpickler(pickle.Unpickler):
    """Loads numbers, text, lists, dicts and the like, and refuses whatever would import or call something."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"it wants to load {module}.{name}, but refs hold plain types only")


def read_refs(path: Path) -> list[dict[str, Any]]:
    """Reads a pickle of refs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: no pickle of plain types, or not of the form above.
    """
    with reading(path, "a pickle of refs, of plain types"), open(path, "rb") as file:
        refs = PlainUnpickler(file, encoding="utf-8", errors="replace").load()
        for ref in refs:
            known = isinstance(ref["sentences"], list) and all(isinstance(one["sent"], str) for one in ref["sentences"])
            if not known or not all(isinstance(ref.get(name), int | str) for name in ("image_id", "ann_id", "split")):
                raise ValueError(f"a ref is {show(ref)}")
    return refs


def add_arguments(parser: ArgumentParser) -> None:
    """Adds --dataset, --split-by and --images."""
    parser.add_argument("--dataset", choices=list(SPLIT_BY), default="refcoco", help="which of the three")
    parser.add_argument("--split-by", choices=["unc", "umd", "google"],
                        help="whose splits (default: unc; umd for refcocog)")  # fmt: skip
    parser.add_argument(
        "--images", type=Path, help=f"folder of COCO's pictures (default: {IMAGE_FOLDERS[0].as_posix()} in the source)"
    )


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the pictures that refs speak of, split by split."""
    folder = arguments.source / arguments.dataset
    path = folder / f"refs({arguments.split_by or SPLIT_BY[arguments.dataset]}).p"
    pictures = arguments.images or next(
        (found for name in IMAGE_FOLDERS if (found := arguments.source / name).is_dir()), None
    )
    if pictures is None:
        raise FileNotFoundError(
            f"{arguments.source / IMAGE_FOLDERS[0]} with COCO's pictures does not exist; give --images"
        )
    refs = read_refs(path)
    images, annotations = read_instances(folder / "instances.json")
    by_split: dict[str, dict[Any, list[Sentence]]] = {split: defaultdict(list) for split in SPLITS}
    for number, ref in enumerate(refs):
        where = f"{path}, ref {number}"
        split = NAMES.get(ref["split"], ref["split"])
        image, name = ref["image_id"], str(ref["ann_id"])
        if split not in by_split:
            problems.found(where, f"the split is {show(split)}, expected one of {', '.join(SPLITS)}")
        elif image not in images or name not in (str(one["id"]) for one in annotations[image]):
            problems.found(where, f"instances.json has no annotation {name} of the image {show(image)}", split)
        elif problems.is_name(where, str(image), "the image_id", split) and problems.is_path(
            f"{folder / 'instances.json'}, image {show(image)}", images[image]["file_name"], "the file_name", split
        ):
            texts = [one["sent"].strip() for one in ref["sentences"]]
            by_split[split][image] += [Sentence((name,), text, where) for text in texts if text]

    def video_of(image: Any, sentences: list[Sentence]) -> AnnotatedVideo:
        file_name = Path(images[image]["file_name"]).name
        return still(str(image), pictures / file_name, annotations[image], sentences, f"image {show(image)}")

    splits = {split: [video_of(*item) for item in of_split.items() if item[1]] for split, of_split in by_split.items()}
    title = TITLES[arguments.dataset]
    return Conversion(splits, convert_video, _describe(title))


def _describe(title: str) -> Description:
    return Description(
        title=title,
        description=(
            "Pictures of COCO with sentences that each refer to one object, and the masks of all annotated objects. "
            "Each picture is a video of one frame. Converted from the original files by `cvls convert refcoco`."
        ),
        license="other",
        license_note=(
            "COCO's annotations are released under CC BY 4.0, its pictures under the terms of those who took them, and "
            "the sentences under those of their authors. Read them before passing this conversion on."
        ),
        citation=CITATIONS,
    )
