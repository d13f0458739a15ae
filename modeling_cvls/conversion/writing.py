"""Converts the videos of a source, in several processes, and writes them as a data set."""

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from tqdm import tqdm

from .card import Description
from .files import show
from .problems import Problem, Problems
from .shards import GROUP_BYTES, LEFT_OUT, SHARD_BYTES, Row, UnfinishedDataset, identity_of, row_groups
from .upload import push_dataset

Item = TypeVar("Item")
Convert = Callable[[Item], Row | tuple[Row | None, list[Problem]] | None]


def _prepare_worker() -> None:
    # A video reader that the parent has left to the garbage collector must not be collected here: it would wait for its
    # threads, which a fork does not take along.
    gc.freeze()

    # A worker whose parent was killed would wait for work for ever.
    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _converted(convert: Convert, item: Item) -> tuple[Row | None, list[Problem]]:
    """`convert(item)` in one form: a row, if there is one, and what is wrong."""
    try:
        result = convert(item)
    except (ValueError, OSError) as error:
        return None, [("", str(error))]
    return result if isinstance(result, tuple) else (result, [])


def _in_order(pool: ProcessPoolExecutor | None, convert: Convert, items: Iterable[Item], num_proc: int) -> Iterator:
    if pool is None:
        yield from (_converted(convert, item) for item in items)
        return
    # Only so many at a time: Executor.map would keep every finished video in memory if writing were slower.
    waiting: deque[tuple[Item, Future | None]] = deque()
    for item in items:
        try:
            waiting.append((item, pool.submit(_converted, convert, item)))
        except BrokenProcessPool:
            waiting.append((item, None))
        if len(waiting) == 4 * num_proc:
            yield _result(convert, *waiting.popleft())
    while waiting:
        yield _result(convert, *waiting.popleft())


def _result(convert: Convert, item: Item, future: Future | None) -> tuple[Row | None, list[Problem]]:
    """What a worker made of an item. Where a worker died, native code of a decoder having ended it, all that were
    waiting are lost: each is converted once more in a process of its own, so that the one at fault is known."""
    try:
        if future is not None:
            return future.result()
    except BrokenProcessPool:
        pass
    with ProcessPoolExecutor(1, initializer=_prepare_worker) as pool:
        try:
            return pool.submit(_converted, convert, item).result()
        except BrokenProcessPool:
            name = show(getattr(item, "video_id", item))
            return None, [("", f"video {name}: reading it ends the process; one of its files is damaged")]


@contextmanager
def _pool_of(num_proc: int) -> Iterator[ProcessPoolExecutor | None]:
    if num_proc == 1:
        yield None
        return
    gc.collect()
    pool = ProcessPoolExecutor(num_proc, initializer=_prepare_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def write_dataset(
    output: Path,
    splits: Mapping[str, Sequence[Item]],
    convert: Convert,
    description: Description,
    num_proc: int = 1,
    problems: Problems | None = None,
    shard_bytes: int = SHARD_BYTES,
    push_to_hub: str | None = None,
) -> None:
    """Converts every video and writes the folder that `datasets.load_dataset(output)` loads.

    The folder appears under its name only when it is complete. Until then it grows in OUTPUT.partial, which loads as
    nothing; a run that was killed, or that met an error, is started again by the same call, keeps the shards that are
    finished and ends with the same bytes as if it had never ended. The source must not change in between. The same call
    on a folder that it has completed says so and changes nothing.

    Args:
        output: the folder to write.
        splits: for each split what `convert` turns into rows, one item per video. Items are pickled: also to tell
            whether an unfinished folder is of the same conversion, so they must pickle alike in every run (no sets).
        convert: item -> a row with the columns of `FEATURES`, or None to leave the video out, or
            (row or None, [(where, why), ...]) with what is wrong in the source and not in the row. A `ValueError` or
            `FileNotFoundError` is a problem of the whole video; its message names file and row. Runs in other processes
            if `num_proc` > 1; must be a function of a module (or a `functools.partial` of one).
        description: what the card (README.md) says besides what is counted.
        num_proc: processes that convert.
        problems: stops at the first problem, or collects them (the default stops); those it holds already are kept.
            What was left out is printed and stored in left_out.jsonl, one line {"split", "where", "why"} per problem.
        shard_bytes: most bytes of encoded video, masks and text in one Parquet file (a single video may have more).
        push_to_hub: "user/name" of a data set of the Hub to upload the finished folder to.

    Raises:
        FileExistsError: `output` exists and this conversion did not write it.
        BlockingIOError: another process is writing it.
        ValueError: no split has a video, a row has not the columns of `FEATURES`, or a problem in the source.
    """
    output = Path(output).absolute()
    problems = problems or Problems()
    splits = {split: items for split, items in splits.items() if items}
    if not splits:
        raise ValueError(f"nothing to write to {output}: no split has a video")
    unfinished = UnfinishedDataset(output, identity_of(splits, convert, description, shard_bytes, problems))
    with unfinished.locked():
        if unfinished.is_complete():
            print(f"{output} is already complete: it was made from the same source with the same options")
        else:
            unfinished.open()
            _write(unfinished, splits, convert, num_proc, problems, shard_bytes)
            unfinished.finish(description, problems.left_out)
            _report(unfinished, problems)
    if push_to_hub:
        push_dataset(output, push_to_hub)


def _write(
    unfinished: UnfinishedDataset,
    splits: Mapping[str, Sequence[Item]],
    convert: Convert,
    num_proc: int,
    problems: Problems,
    shard_bytes: int,
) -> None:
    """Writes all shards that are not there yet."""
    started = perf_counter()
    before = sum(row["sentences"] for row in unfinished.counts().values())
    with _pool_of(num_proc) as pool:
        for split, items in splits.items():
            states = unfinished.shards.get(split, [])
            for state in states:
                for where, why in state["left_out"]:
                    problems.found(where, why, split)
            start = states[-1]["end"] if states else 0
            results = _in_order(pool, convert, islice(items, start, None), num_proc)
            results = tqdm(results, initial=start, total=len(items), desc=split, unit="video")
            groups = row_groups(results, split, start, min(GROUP_BYTES, shard_bytes), problems)
            unfinished.write_shards(split, groups, shard_bytes)
    counts = unfinished.counts()
    if not counts:
        raise ValueError(f"nothing to write to {unfinished.output}: every video was left out")
    seconds, sentences = perf_counter() - started, sum(row["sentences"] for row in counts.values()) - before
    print(f"{sentences:,} sentences in {seconds:.0f} s: {sentences / seconds:.0f} per second")


def _report(unfinished: UnfinishedDataset, problems: Problems) -> None:
    output = unfinished.output
    for split, row in unfinished.counts().items():
        print(f"{split}: " + ", ".join(f"{number:,} {name}" for name, number in row.items()))
    if problems.left_out:
        print(f"Left out {len(problems.left_out):,}, all listed in {output / LEFT_OUT}:")
        for entry in problems.left_out[:10]:
            print(f"  {entry['where']}: {entry['why']}")
    print(f'Wrote {output}: load it with datasets.load_dataset("{output}")')
