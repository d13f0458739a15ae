"""Segments what sentences refer to in videos and writes them with the masks and a legend drawn in.

python scripts/segment.py VIDEO "the dog on the left" "the cat" --model outputs/demo/checkpoint --output out.mp4
accelerate launch scripts/segment.py FOLDER "the dog" --model outputs/demo/checkpoint --output FOLDER_OF_RESULTS

VIDEO is a file, a URL or a folder of frames. FOLDER holds videos, or a folder of frames for each video; they are shared
out among the processes, and those whose results are there already are left out, so that the same command goes on where
it was stopped.
"""

import argparse
import json
import re
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm
from transformers import pipeline

import modeling_cvls  # noqa: F401  registers the model, the processor and the pipeline
from modeling_cvls.frame_reader_cvls import FrameReader, frame_files
from modeling_cvls.launch import check_checkpoint, process_state, start_cpu_processes
from modeling_cvls.visualization import VideoWriter, cutout, mask_picture, overlay

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
FOLDER_FPS = 24  # of a folder of frames, where nothing else is said


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder: its video files, or, where it has neither those nor frames, its folders of frames."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "."]
    if not files and not frame_files(folder):
        files = [path for path in folder.iterdir() if path.is_dir() and frame_files(path)]
    return sorted(files)


def folders_of(output: Path) -> tuple[Path, Path]:
    """Where the cut-outs and the mask videos go for a video whose overlay is `output`."""
    return output.with_name(f"{output.stem}_cutouts"), output.with_name(f"{output.stem}_masks")


def outputs_of(output: Path, args: argparse.Namespace) -> list[Path]:
    """What is written for a video whose overlay is `output`; the overlay, which comes last, says that all is there."""
    cutouts, masks = folders_of(output)
    return [*([cutouts] if args.cutouts else []), *([masks] if args.masks else []), output]


def name_of(number: int, sentence: str) -> str:
    """A name for files: the sentence's number, from 1 on, and its words."""
    return f"{number + 1}_{re.sub(r'[^a-z0-9]+', '_', sentence.lower()).strip('_')[:60]}".rstrip("_")


def segment_video(segmenter, source: str | Path, output: Path, args: argparse.Namespace, progress: bool) -> dict:
    """Writes everything under another name, and gives it its own at the end.

    Returns:
        {"frames": their number, "scores": largest presence probability of each sentence, "shares": share of the frames
        in which each sentence has a mask}.
    """
    fps = args.video_fps or (FOLDER_FPS if Path(source).is_dir() else None)
    reader = FrameReader(str(source), fps)
    results = segmenter.stream(
        reader,
        args.sentences,
        args.batch_size,
        start=args.start,
        end=args.end,
        fps=args.fps,
        window=args.window,
        overlap=args.overlap,
        threshold=args.threshold,
        presence_threshold=args.presence_threshold,
        return_frames=True,
        progress=progress,
    )
    partial = output.with_name(f".{output.stem}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    names = [name_of(number, sentence) for number, sentence in enumerate(args.sentences)]
    finished, (cutouts, mask_videos) = outputs_of(output, args), folders_of(partial / output.name)
    fps = reader.fps if args.fps is None else min(args.fps, reader.fps)
    count, scores, shares = 0, np.zeros(len(names)), np.zeros(len(names))
    try:
        with ExitStack() as stack:
            drawn = stack.enter_context(VideoWriter(partial / output.name, fps))
            masks = {}
            for name in names:
                if args.cutouts:
                    (cutouts / name).mkdir(parents=True)
                if args.masks:
                    mask_videos.mkdir(exist_ok=True)
                    masks[name] = stack.enter_context(VideoWriter(mask_videos / f"{name}.mp4", fps))
            for result in results:
                frame, found = result["frame"], result["masks"]
                drawn.write(overlay(frame[None], found[:, None], args.sentences, result["scores"])[0])
                for name, mask in zip(names, found, strict=True):
                    if args.cutouts:
                        cutout(frame, mask).save(cutouts / name / f"{result['frame_index']:05d}.png")
                    if args.masks:
                        masks[name].write(mask_picture(mask))
                count += 1
                scores = np.maximum(scores, result["scores"])
                shares += found.any((1, 2))
        for path in finished:
            if path.is_dir():
                shutil.rmtree(path)
            (partial / path.name).replace(path)
    finally:
        shutil.rmtree(partial)
    return {"frames": count, "scores": scores.tolist(), "shares": (shares / count).tolist()}


def check_settings(folder: Path, args: argparse.Namespace) -> None:
    """Results in a folder are all of the same sentences and settings: what is there already is not made again."""
    left_out = ("video", "output", "device", "batch_size")
    settings = {name: value for name, value in vars(args).items() if name not in left_out}
    path = folder / "settings.json"
    if path.exists():
        earlier = json.loads(path.read_text())
        changed = [name for name in settings if settings[name] != earlier.get(name)]
        if changed:
            raise ValueError(
                f"--output {folder} holds results of another {', '.join(changed)} (see {path.name}); give a new folder"
            )
    else:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        partial.replace(path)


def segment_folder(segmenter, videos: list[Path], args: argparse.Namespace, state: PartialState) -> list[str]:
    """Segments this process's share of the videos whose results are not there yet; errors of all processes."""
    outputs = {video: args.output / f"{video.stem if video.is_file() else video.name}.mp4" for video in videos}
    twice = {output.name for output in outputs.values() if list(outputs.values()).count(output) > 1}
    if twice:
        raise ValueError(f"several videos in {args.video} would be written to {', '.join(sorted(twice))}: rename some")
    todo = [[video for video in videos if not all(path.exists() for path in outputs_of(outputs[video], args))]]
    broadcast_object_list(todo)  # the same for all, though others may have finished some already
    (todo,) = todo
    if state.is_main_process and len(todo) < len(videos):
        print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
    errors = []
    share = todo[state.process_index :: state.num_processes]
    for video in tqdm(share, desc="segmenting", unit="video", disable=not state.is_main_process):
        try:
            segment_video(segmenter, video, outputs[video], args, progress=False)
        except (OSError, ValueError) as error:  # the others can still be done
            errors.append(f"{video}: {error}")
    return gather_object(errors)


def parse(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="a video file, a URL, a folder of frames, or a folder of videos")
    parser.add_argument("sentences", nargs="+", metavar="sentence", help="what to segment; each sentence in quotes")
    parser.add_argument("--model", required=True, help="folder (or Hub name) of a trained model")
    parser.add_argument(
        "--output", required=True, type=Path, help="the mp4 file to write; for a folder of videos, a folder"
    )
    parser.add_argument(
        "--cutouts", action="store_true", help="also write OUTPUT_cutouts/SENTENCE/FRAME.png, transparent elsewhere"
    )
    parser.add_argument("--masks", action="store_true", help="also write OUTPUT_masks/SENTENCE.mp4, white on black")
    parser.add_argument("--start", type=float, help="seconds from which on frames are taken; default: the beginning")
    parser.add_argument("--end", type=float, help="seconds before which frames are taken; default: the end")
    parser.add_argument("--fps", type=float, help="take so many frames a second; default: all")
    parser.add_argument(
        "--video-fps", type=float, help=f"frames a second of the video; default: as it says, {FOLDER_FPS} for frames"
    )
    parser.add_argument("--window", type=int, help="frames of a window; default: the model's num_frames")
    parser.add_argument("--overlap", type=int, help="frames that windows share; default: a quarter of the window")
    parser.add_argument("--batch-size", type=int, default=1, help="windows at once; default 1")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability above which a pixel is in the mask")
    parser.add_argument(
        "--presence-threshold", type=float, default=0.5, help="presence probability below which masks are empty"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; by default an accelerator where there is one")
    return parser, parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    parser, args = parse(arguments)
    try:
        folder = Path(args.video)
        videos = videos_in(folder) if folder.is_dir() else []
        if not videos and args.output.suffix.lower() != ".mp4":
            raise ValueError(f"--output {args.output}: an mp4 is written, so the name must end in .mp4")
        if videos and args.output.is_file():
            raise ValueError(f"--output {args.output} is a file; a folder of videos takes a folder")
        if args.output.exists() and folder.exists() and args.output.samefile(folder):
            raise ValueError(f"--output {args.output} is the video itself: give another name")
        check_checkpoint(args.model, "--model")
        device, state = args.device, None
        if videos:
            state = process_state()
            device = device or state.device
            args.output.mkdir(parents=True, exist_ok=True)
            with state.main_process_first():
                check_settings(args.output, args)
        segmenter = pipeline("video-language-segmentation", model=args.model, device=device)
        if videos:
            errors = segment_folder(segmenter, videos, args, state)
        else:
            summary = segment_video(segmenter, args.video, args.output, args, progress=True)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)

    if not videos:
        for score, share, sentence in zip(summary["scores"], summary["shares"], args.sentences, strict=True):
            print(f"{score:.3f}  mask in {share:4.0%} of the frames  {sentence}")
        print(f"{summary['frames']} frames written to {args.output}")
    elif state.is_main_process:
        print(f"{len(videos) - len(errors)} of {len(videos)} videos are in {args.output}")
        for error in errors:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
    if videos and errors:
        sys.exit(2)


if __name__ == "__main__":
    start_cpu_processes()
    main()
