"""Runs `cvls segment` several times, each in two processes of one group, and notes which begins which video.

python counted_segment.py RUNS.json

RUNS.json is a list of [arguments of segment, their output, the number of the process that ends itself without a word
when it begins its second video, or null]. Prints a JSON list of a run's [statuses, [process, video] of each video that
was begun, the files of the output when it ended].
"""

import json
import os
import signal
import sys
from pathlib import Path

import cvls
from children import start_group, wait
from modeling_cvls.segmentation import folders

segment_video = folders.segment_video


def segment(arguments: list[str], killed: int | None, log: Path) -> None:
    rank, begun = int(os.environ["RANK"]), []

    def counted(segmenter, video, *rest, **keywords):
        begun.append(video)
        if rank == killed and len(begun) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(log, "a") as file:
            file.write(json.dumps([rank, video.stem]) + "\n")
        return segment_video(segmenter, video, *rest, **keywords)

    folders.segment_video = counted
    cvls.main(["segment", *arguments])


def main() -> None:
    results = []
    for number, (arguments, output, killed) in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        log = Path(f"{sys.argv[1]}.{number}")
        statuses = [wait(child) for child in start_group(segment, arguments, killed, log)]
        begun = [json.loads(line) for line in log.read_text().splitlines()]
        results.append([statuses, begun, sorted(path.name for path in Path(output).iterdir())])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
