"""`cvls explain`: one picture of similarity maps, masks and kept channels of some sentences about a clip."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..atomic import written_together
from ..extras import require

DESCRIPTION = """Draws what a segmenter saw in a clip as one picture: the similarity map, the mask and the kept
channels of each sentence. Give a video file and sentences, or a data set, whose masks are then shown as the truth."""


def build_parser(prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("video", nargs="?", help="the video file, if no --dataset is given")
    parser.add_argument("sentences", nargs="*", metavar="sentence", help="about the video; each one in quotes")
    parser.add_argument("--model", required=True, help="folder or Hub name of a trained model")
    parser.add_argument("--compare", help="folder or Hub name of a second model, whose masks are shown beside")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="what the picture calls the models")
    parser.add_argument("--dataset", help="folder or Hub name that load_dataset loads; its masks are the truth")
    parser.add_argument("--split", default="test", help="split of the data set")
    parser.add_argument(
        "--video-id",
        help="video of the split; without it, the first one with at least four objects and with sentences of the kinds "
        "appearance and temporal, or else the first one with an annotated frame and a sentence",
    )
    parser.add_argument(
        "--num-sentences", type=int, default=4, help="number of sentences to draw of a data set's video, from the first"
    )
    parser.add_argument(
        "--frame",
        type=int,
        help="frame to show, from 0, in the middle of the model's window; without it, the middle annotated frame, or "
        "the middle frame of a video file",
    )
    parser.add_argument("--output", required=True, type=Path, help="the png file to write")
    return parser


def check_arguments(parser: ArgumentParser, args: Namespace) -> None:
    if args.output.suffix.lower() != ".png":
        parser.error(f"--output {args.output}: a png is written, so the name must end in .png")
    if args.dataset and args.video:
        parser.error("give either --dataset or a video with sentences, not both")
    if not args.dataset and not (args.video and args.sentences):
        parser.error("give a video and at least one sentence, or --dataset")
    if len(args.names) > 1 + bool(args.compare):
        parser.error(f"--names: {len(args.names)} names for {1 + bool(args.compare)} model(s)")
    if args.num_sentences < 1:
        parser.error(f"--num-sentences {args.num_sentences}: at least 1 is needed")


def main(arguments: list[str] | None = None, prog: str = "cvls explain") -> None:
    parser = build_parser(prog)
    args = parser.parse_args(arguments)
    check_arguments(parser, args)
    require("train", "matplotlib")
    # after the arguments were read, so that help comes at once
    from ..explanation.clips import clip_of_video
    from ..explanation.picture import NamedSegmenter, Picture

    if args.dataset:
        require("data", "datasets")
        from ..explanation.rows import clip_of_dataset

        clip = clip_of_dataset(args.dataset, args.split, args.video_id, args.frame, args.num_sentences)
    else:
        clip = clip_of_video(args.video, args.sentences, args.frame)
    names = [*args.names, None, None]
    segmenters = [NamedSegmenter(args.model, "--model", names[0])]
    if args.compare:
        segmenters.append(NamedSegmenter(args.compare, "--compare", names[1]))
    picture = Picture(clip, segmenters)
    lines = picture.draw()
    with written_together(args.output) as partial:
        picture.save(partial / args.output.name)
    print(*lines, f"written to {args.output}", sep="\n")
