"""Segments what sentences refer to in videos and writes them with the masks and a legend drawn in.

cvls segment VIDEO "the dog on the left" "the cat" --model CHECKPOINT --output out.mp4
cvls segment VIDEO "the dog" --model CHECKPOINT --output masks.json --format coco
cvls segment FOLDER "the dog" --model CHECKPOINT --output FOLDER_OF_RESULTS

VIDEO is a file, a URL or a folder of frames. FOLDER holds videos, or one folder of frames per video. The videos are
shared out among the processes. Videos whose results are there already are left out, so that the same command goes on
where it was stopped.
"""

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

from accelerate import PartialState
from jsonargparse import ArgumentParser

from ..atomic import only_one
from ..features_cvls import fingerprint
from ..launch import check_checkpoint, load_pipeline, process_state
from ..results import FORMATS
from ..segmentation import (
    Settings,
    check_links,
    check_settings,
    left_out_of,
    outputs_in,
    segment_folder,
    segment_video,
    videos_in,
)
from ..segmentation.files import FOLDER_FPS


def main(arguments: list[str] | None = None, prog: str = "cvls segment") -> None:
    """Runs the command.

    Raises:
        OSError, ValueError: an argument or a file is at fault.
        SystemExit: with status 2 where some videos of a folder could not be segmented.
    """
    args = make_parser(prog).parse_args(arguments)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    folder = Path(args.video)
    videos = videos_in(folder) if folder.is_dir() else []
    _check_output(args, settings, folder, is_folder=bool(videos))
    if folder.is_dir() and not args.allow_links:
        check_links(folder, videos)
    check_checkpoint(args.model, "--model")
    state = process_state()
    if videos:
        outputs_in(args.output, videos, settings)  # two of the same name are an error before anything is written
        _segment_folder(videos, args, settings, state, prog)
        return
    if state.num_processes > 1:
        raise ValueError("several processes share out a folder of videos; start one process for a single video")
    segmenter = load_pipeline(args.model, "--model", args.device)
    summary = segment_video(segmenter, args.video, args.output, settings, args.batch_size, progress=True)
    for score, share, sentence in zip(summary.scores, summary.shares, settings.sentences, strict=True):
        print(f"{score:.3f}  mask in {share:4.0%} of the frames  {sentence}")
    if summary.damage is not None:
        print(f"{prog}: warning: {summary.damage}", file=sys.stderr)
    print(f"{summary.frames} frames written to {args.output}")


def _check_output(args: Namespace, settings: Settings, video: Path, is_folder: bool) -> None:
    """Raises a `ValueError` where --output cannot be what is to be written."""
    suffix = settings.suffix
    if not is_folder and suffix and args.output.suffix.lower() != suffix:
        what = "an mp4 is written" if suffix == ".mp4" else f"--format {settings.format} writes a file"
        raise ValueError(f"--output {args.output}: {what}, so the name must end in {suffix}")
    if args.output.is_file() and (is_folder or not suffix):
        what = "a folder of videos takes a folder" if is_folder else f"--format {settings.format} writes a folder"
        raise ValueError(f"--output {args.output} is a file; {what}")
    if args.output.exists() and video.exists() and args.output.samefile(video):
        raise ValueError(f"--output {args.output} is the video itself: give another name")


def _segment_folder(videos: list[Path], args: Namespace, settings: Settings, state: PartialState, prog: str) -> None:
    another = BlockingIOError(
        f"another run is writing to --output {args.output}; to share the work, start one run with several processes: "
        "torchrun --nproc-per-node N"
    )
    with only_one(args.output / ".lock", another) if state.is_main_process else nullcontext():
        segmenter = load_pipeline(args.model, "--model", args.device or state.device)
        segmenter.processor(text=settings.sentences)  # one that is too long is an error once, and not with each video
        with state.main_process_first():
            check_settings(args.output, settings, fingerprint(segmenter.model))
        errors, damages = segment_folder(segmenter, videos, args.output, settings, state, args.batch_size)
    if state.is_main_process:
        left_out = left_out_of(Path(args.video), videos)
        if left_out:
            print(f"left out, as no video: {', '.join(path.name for path in left_out)}")
        print(f"{len(videos) - len(errors)} of {len(videos)} videos are in {args.output}")
        for damage in damages:
            print(f"{prog}: warning: {damage}", file=sys.stderr)
        for error in errors:
            print(f"{prog}: error: {error}", file=sys.stderr)
    if errors:
        sys.exit(2)


def make_parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("video", help="a video file, a URL, a folder of frames, or a folder of videos")
    parser.add_argument("sentences", nargs="+", metavar="sentence", help="what to segment; each sentence in quotes")
    parser.add_argument("--model", required=True, help="folder (or Hub name) of a trained model")
    parser.add_argument(
        "--output", required=True, type=Path, help="the file or folder to write; for a folder of videos, a folder"
    )
    parser.add_argument(
        "--cutouts", action="store_true", help="also write OUTPUT_cutouts/SENTENCE/FRAME.png, transparent elsewhere"
    )
    parser.add_argument("--masks", action="store_true", help="also write OUTPUT_masks/SENTENCE.mp4, white on black")
    parser.add_argument("--start", type=float, help="seconds from which on frames are taken; default: the beginning")
    parser.add_argument("--end", type=float, help="seconds before which frames are taken; default: the end")
    parser.add_argument("--fps", type=float, help="take this many frames per second; default: all")
    parser.add_argument(
        "--video-fps",
        type=float,
        help=f"frames per second of the video; default: what the file says, {FOLDER_FPS} for a folder of frames",
    )
    parser.add_argument(
        "--on-damage",
        choices=["keep", "error"],
        default="keep",
        help="where some frames cannot be decoded: keep the others, or refuse the video; default: keep",
    )
    parser.add_argument("--window", type=int, help="frames of a window; default: the model's num_frames")
    parser.add_argument("--overlap", type=int, help="frames that windows share; default: a quarter of the window")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="windows that go through the model together; default: 1"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability above which a pixel is in the mask; default: 0.5"
    )
    parser.add_argument(
        "--presence-threshold",
        type=float,
        default=0.5,
        help="presence probability below which masks are empty; default: 0.5",
    )
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        default="overlay",
        help="what to write: overlay, an mp4 file; coco, youtube_vis or cvat, a file of annotations; palette, "
        "competition or mots, a folder of images; for a folder of videos, one of them per video. Default: overlay",
    )
    parser.add_argument(
        "--allow-links", action="store_true", help="let links lead out of a folder of videos or of frames"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; default: an accelerator where there is one")
    return parser
