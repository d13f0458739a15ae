"""Refer-YouTube-VOS, as downloaded -> a folder that `datasets.load_dataset` loads.

    cvls convert refer_youtube_vos --source RAW --output DATASET

RAW holds

    <split>/JPEGImages/<video>/<frame>.jpg
    <split>/Annotations/<video>/<frame>.png            palette images, index = id of the object; every fifth frame;
                                                       not published for valid and test
    meta_expressions/<split>/meta_expressions.json     videos -> <video> -> expressions -> <n> -> {exp, obj_id}, frames;
                                                       no obj_id in valid and test

The frames of a video are those that the json lists, so that what is segmented is what the competition server asks for:
`Annotations/<video>/<n>/<frame>.png`. The valid split of the json also lists the videos of the test split; where the
test split's json is there, they are left to it, as the server expects.

Download and terms: https://youtube-vos.org/dataset/rvos/
"""

from argparse import Namespace
from pathlib import Path

from .arguments import Conversion
from .card import Description
from .files import read_json
from .problems import Problems
from .video_folders import PALETTE_META, PaletteFolder, convert_palette_folder, present_splits, read_palette_videos

# The synthetic sets in this layout also have heldout.
SPLITS = ("train", "valid", "test", "heldout")

DESCRIPTION = Description(
    title="Refer-YouTube-VOS",
    description=(
        "Videos of YouTube-VOS with sentences that each refer to one object, and the masks of the objects in every "
        "annotated frame. The splits valid and test are published without masks. Converted from the original layout "
        "by `cvls convert refer_youtube_vos`."
    ),
    license="other",
    license_note=(
        "Videos, masks and sentences remain under the terms of those who published them: YouTube-VOS states its own "
        "for the annotations, and the videos belong to those who uploaded them (a synthetic set in this layout stands "
        "under the terms of its generator). Read them before passing this conversion on."
    ),
    citation="""
@inproceedings{seo2020urvos,
  title     = {{URVOS}: Unified Referring Video Object Segmentation Network with a Large-Scale Benchmark},
  author    = {Seo, Seonguk and Lee, Joon-Young and Han, Bohyung},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2020}
}

@inproceedings{xu2018youtubevos,
  title     = {{YouTube-VOS}: Sequence-to-Sequence Video Object Segmentation},
  author    = {Xu, Ning and Yang, Linjie and Fan, Yuchen and Yang, Jianchao and Yue, Dingcheng and Liang, Yuchen and
               Price, Brian and Cohen, Scott and Huang, Thomas},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2018}
}
""",
)


def find_videos(source: Path, split: str, problems: Problems) -> list[PaletteFolder]:
    """`read_palette_videos`, of the valid split without the videos that belong to the test split."""
    test = source / PALETTE_META.format(split="test")
    of_test: dict = {}
    if split == "valid" and test.is_file():
        content = read_json(test, "a meta_expressions.json")
        of_test = content.get("videos", {}) if isinstance(content, dict) else {}
    return read_palette_videos(source, split, problems, without=of_test)


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos of a Refer-YouTube-VOS download."""
    present = present_splits(arguments.source, SPLITS, PALETTE_META, arguments.split, problems)
    splits = {split: find_videos(arguments.source, split, problems) for split in present}
    return Conversion(splits, convert_palette_folder, DESCRIPTION)
