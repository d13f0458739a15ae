"""`cvls train CONFIG.yaml [--section.key value ...]`: trains or fine-tunes a segmenter."""

import sys

from ..launch import prepare_processes
from ..training import parse_training, train


def main(arguments: list[str] | None = None, prog: str = "cvls train") -> None:
    """Runs the command.

    Raises:
        OSError, ValueError: an argument or a file is at fault.
        SystemExit: a signal stopped the training, with the status that shells have for it: 128 and its number.
    """
    prepare_processes()
    trainer = train(*parse_training(sys.argv[1:] if arguments is None else arguments, prog))
    if trainer.stop.received is not None:
        if trainer.is_world_process_zero():
            print(
                f"{prog}: stopped by signal {trainer.stop.received} after step {trainer.state.global_step}, which is "
                "saved; the same command with --training.resume_from_checkpoint true goes on",
                file=sys.stderr,
            )
        sys.exit(128 + trainer.stop.received)
