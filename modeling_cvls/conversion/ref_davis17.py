"""Ref-DAVIS17, in the layout of Refer-YouTube-VOS -> a folder that `datasets.load_dataset` loads.

    cvls convert ref_davis17 --source RAW --output DATASET

RAW holds

    <split>/JPEGImages/<video>/<frame>.jpg
    <split>/Annotations/<video>/<frame>.png            palette images, index = id of the object, 255 void; every frame
    meta_expressions/<split>/meta_expressions.json     videos -> <video> -> expressions -> <n> -> {exp, obj_id}, frames

as the public readers of the set write it from DAVIS 2017 and its text files. There, each object is described four
times: by two annotators who saw the first frame and by the same two who saw the whole video, in the order first (1),
full (1), first (2), full (2); the expressions of a video are numbered object by object. Results are those of each of
the four, averaged. No field names the annotator: the n-th sentence of an object in a row's `sentences`, which keep the
order of the json, is by annotator n. An object may have fewer sentences in other sources of this layout.

Download and terms: https://davischallenge.org/ (videos, masks), https://www.mpi-inf.mpg.de/ (sentences: Video Object
Segmentation with Language Referring Expressions)
"""

from argparse import Namespace

from .arguments import Conversion
from .card import Description, terms_note
from .problems import Problems
from .video_folders import PALETTE_META, convert_palette_folder, present_splits, read_palette_videos

# The synthetic sets in this layout also have test and heldout.
SPLITS = ("train", "valid", "test", "heldout")

DESCRIPTION = Description(
    title="Ref-DAVIS17",
    description=(
        "Videos of DAVIS 2017 with the masks of their objects in every frame, and four sentences on each object: two "
        "annotators, each from the first frame and from the whole video. In a row's `sentences`, the n-th one of an "
        "object is the n-th of these four. Converted from the layout of Refer-YouTube-VOS by "
        "`cvls convert ref_davis17`."
    ),
    license="other",
    license_note=terms_note("DAVIS 2017 and of the referring expressions"),
    citation="""
@inproceedings{khoreva2018video,
  title     = {Video Object Segmentation with Language Referring Expressions},
  author    = {Khoreva, Anna and Rohrbach, Anna and Schiele, Bernt},
  booktitle = {Asian Conference on Computer Vision (ACCV)},
  year      = {2018}
}

@article{ponttuset2017davis,
  title   = {The 2017 {DAVIS} Challenge on Video Object Segmentation},
  author  = {Pont-Tuset, Jordi and Perazzi, Federico and Caelles, Sergi and Arbel{\\'a}ez, Pablo and
             Sorkine-Hornung, Alexander and Van Gool, Luc},
  journal = {arXiv preprint arXiv:1704.00675},
  year    = {2017}
}
""",
)


def prepare(arguments: Namespace, problems: Problems) -> Conversion:
    """Finds the videos of a Ref-DAVIS17 in this layout."""
    present = present_splits(arguments.source, SPLITS, PALETTE_META, arguments.split, problems)
    splits = {split: read_palette_videos(arguments.source, split, problems) for split in present}
    return Conversion(splits, convert_palette_folder, DESCRIPTION)
