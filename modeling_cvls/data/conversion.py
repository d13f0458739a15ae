"""What the scripts in dataset_scripts/ share: arguments, problems, parallel reading, Parquet shards, card, upload."""

import fcntl
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from huggingface_hub import HfApi
from tqdm import tqdm

from .schema import FEATURES

Item = TypeVar("Item")
Row = dict[str, Any]
#: (where, why): the file and row of something wrong in the source, and what is wrong with it.
Problem = tuple[str, str]
Convert = Callable[[Item], Row | None | tuple[Row | None, list[Problem]]]

# Of what is stored; what Parquet adds to it stays far below the rest of 500 MB.
SHARD_BYTES = 480_000_000
# Small groups: a reader holds one in memory, also to get a single row of a streamed data set.
GROUP_ROWS = 64
GROUP_BYTES = 8_000_000
# Encoded video repeats nothing that a dictionary could hold, and has no smallest or largest value worth a note.
PARQUET = {"use_dictionary": False, "write_statistics": False}
LEFT_OUT = "left_out.jsonl"


@dataclass(frozen=True)
class DatasetCard:
    """What a data set's card says besides what is counted.

    Args:
        title: the data set's name.
        description: a paragraph, Markdown.
        license: an identifier of the Hub ("other" where none fits).
        license_note: a paragraph on the source's terms.
        citation: BibTeX.
    """

    title: str
    description: str
    license: str
    license_note: str
    citation: str


@dataclass
class Problems:
    """What is wrong in the source: the first one ends the conversion, or (`skip`) each is left out and noted.

    Args:
        skip: leave out what is wrong (--skip-invalid).

    Attributes:
        left_out: {"split": its name or None where it is not known, "where", "why"}, in the order of the source.
    """

    skip: bool = False
    left_out: list[dict[str, str | None]] = field(default_factory=list)

    def found(self, where: str, why: str, split: str | None = None) -> None:
        """Notes a problem; whoever calls it then leaves out what it is about.

        Args:
            where: file and row, as in "text_annotations/a2d_annotation.txt, line 17".
            why: what is wrong and what would be right.
            split: the split it is in, if that is known.

        Raises:
            ValueError: "where: why", unless `skip`.
        """
        if not self.skip:
            raise ValueError(f"{where}: {why} (--skip-invalid leaves out whatever is wrong in the source)")
        self.left_out.append({"split": split, "where": where, "why": why})


def conversion_parser(description: str, splits: Sequence[str]) -> ArgumentParser:
    """The arguments of every dataset script: --source, --output, --split, --num-proc, --skip-invalid, --push-to-hub.

    Args:
        description: the head of --help.
        splits: the splits that --split may name.
    """

    def processes(text: str) -> int:
        if not text.isdigit() or int(text) < 1:
            raise ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
        return int(text)

    parser = ArgumentParser(description=description)
    parser.add_argument("--source", type=Path, required=True, help="folder of the raw download")
    parser.add_argument("--output", type=Path, required=True,
                        help="folder to write; it must not exist yet. A run that was killed is started again by "
                        "the same command and goes on where it was")  # fmt: skip
    parser.add_argument("--split", nargs="+", choices=splits, metavar="SPLIT",
                        help=f"splits to convert, of {', '.join(splits)} (default: all that have videos)")  # fmt: skip
    parser.add_argument("--num-proc", type=processes, default=os.cpu_count(),
                        help="processes that read videos at the same time (default: one a core)")  # fmt: skip
    parser.add_argument("--skip-invalid", action="store_true",
                        help="leave out what is wrong in the source and note it in left_out.jsonl, instead of "
                        "stopping at the first such thing")  # fmt: skip
    parser.add_argument("--push-to-hub", metavar="USER/NAME",
                        help="also upload the finished folder to this data set of the Hugging Face Hub")  # fmt: skip
    return parser


def run_conversion(
    arguments: Namespace,
    splits: Mapping[str, Sequence[Item]],
    convert: Convert,
    card: DatasetCard,
    problems: Problems,
) -> None:
    """`write_dataset` with the arguments of `conversion_parser`: all splits that have videos, or those of --split.

    Raises:
        ValueError: a split of --split has no video.
    """
    if arguments.split:
        empty = [split for split in arguments.split if not splits.get(split)]
        if empty:
            raise ValueError(f"--split {' '.join(empty)}: {arguments.source} has no video with sentences in it")
        splits = {split: splits[split] for split in arguments.split}
    write_dataset(
        arguments.output,
        splits,
        convert,
        card,
        num_proc=arguments.num_proc,
        problems=problems,
        push_to_hub=arguments.push_to_hub,
    )


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
    except (ValueError, FileNotFoundError) as error:
        return None, [("", str(error))]
    return result if isinstance(result, tuple) else (result, [])


def _in_order(pool: ProcessPoolExecutor | None, convert: Convert, items: Iterable[Item], num_proc: int) -> Iterator:
    if pool is None:
        yield from (_converted(convert, item) for item in items)
        return
    # Only so many at a time: Executor.map would keep every finished video in memory if writing were slower.
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(_converted, convert, item))
        if len(waiting) == 4 * num_proc:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _row_bytes(row: Row) -> int:
    media = [row["video"], *(row["frames"] or [])]
    size = sum(len(cell["bytes"]) for cell in media if cell is not None and cell["bytes"] is not None)
    size += sum(len(counts) for masks in row["masks"] for counts in masks if counts is not None)
    return size + sum(len(sentence["text"]) for sentence in row["sentences"])


@dataclass
class _Group:
    """Rows that are written at once, and what is known of the items that they were made from.

    `end` is the number of items of the split up to the end of the group; `left_out` belongs to those it adds.
    """

    rows: list[Row] = field(default_factory=list)
    size: int = 0
    end: int = 0
    left_out: list[Problem] = field(default_factory=list)


def _row_groups(
    results: Iterable[tuple[Row | None, list[Problem]]], split: str, start: int, most_bytes: int, problems: Problems
) -> Iterator[_Group]:
    """Collects rows into groups whose ends depend on nothing but the rows since the last end.

    Args:
        results: of the items of `split` from number `start` on.
    """
    group = _Group(end=start)
    for row, found in results:
        found = [(where or f"{split}, video {group.end + 1}", why) for where, why in found]
        for where, why in found:
            problems.found(where, why, split)
        if row is not None:
            # pyarrow would take a missing column for null and drop one that is too many.
            if row.keys() != FEATURES.keys():
                wrong = sorted(row.keys() ^ FEATURES.keys())
                raise ValueError(f"video {row.get('video_id')!r}: columns missing or too many: {', '.join(wrong)}")
            size = _row_bytes(row)
            if group.rows and (len(group.rows) == GROUP_ROWS or group.size + size > most_bytes):
                yield group
                group = _Group(end=group.end)
            group.rows.append(row)
            group.size += size
        group.left_out += found
        group.end += 1
    if group.rows:
        yield group


class _Unfinished:
    """OUTPUT.partial, a data set on its way: all in a hidden folder, where load_dataset finds nothing, and its state.

    The state names the conversion (`identity`) and, for each split, the shards that are finished: how many items of
    the split they and those before them took (`end`), what they hold (`counts`, `bytes`) and what was left out. It is
    replaced as a whole after each shard, so a conversion that was killed goes on behind its last finished shard.
    """

    def __init__(self, output: Path, identity: str):
        self.output = output
        self.identity = identity
        self.folder = output.with_name(output.name + ".partial")
        self.content = self.folder / ".dataset"
        self.state_file = self.folder / ".state.json"
        self.shards: dict[str, list[dict[str, Any]]] = {}
        self.done = False

    def _shard(self, split: str, number: int, shards: int | None = None) -> Path:
        of = "" if shards is None else f"-of-{shards:05d}"
        return self.content / "data" / f"{split}-{number:05d}{of}.parquet"

    def _read_state(self) -> dict[str, list[dict[str, Any]]] | None:
        if not self.state_file.exists():
            return None
        state = json.loads(self.state_file.read_text(encoding="utf-8"))
        return state["shards"] if state["identity"] == self.identity else None

    def _write_state(self) -> None:
        new = self.state_file.with_suffix(".new")
        new.write_text(json.dumps({"identity": self.identity, "shards": self.shards}), encoding="utf-8")
        new.replace(self.state_file)

    def _is_whole(self, shards: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
        for split, states in shards.items():
            for number, state in enumerate(states):
                # A run that was killed at its very end has renamed some of them.
                paths = (self._shard(split, number), self._shard(split, number, len(states)))
                if [path.stat().st_size for path in paths if path.exists()] != [state["bytes"]]:
                    return False
        return True

    def finished(self) -> bool:
        """True where an earlier run of this conversion wrote the folder and ended afterward, as in uploading it."""
        return self.output.exists() and not self.content.exists() and self._read_state() is not None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out; at the end the folder goes if there is nothing to go on with.

        Raises:
            FileExistsError: something is in the way that this conversion did not write.
            RuntimeError: another process is at it.
        """
        if self.output.exists() and not self.finished():
            raise FileExistsError(f"{self.output} exists already; remove it or choose another --output")
        if self.folder.exists() and not all(path.name.startswith(".") for path in self.folder.iterdir()):
            raise FileExistsError(f"{self.folder} is needed while writing, but holds something else; move it away")
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            try:
                # Unlike flock, a lock of this kind is not inherited by the workers, which may live a moment longer.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RuntimeError(f"another process is writing {self.output}") from error
            try:
                yield
            finally:
                if self.done or not any(self.shards.values()):
                    shutil.rmtree(self.folder)

    def open(self) -> None:
        """Takes up what an earlier run of this conversion has finished, or starts anew."""
        shards = self._read_state()
        if shards is not None and (self.finished() or self._is_whole(shards)):
            self.shards = shards
            if finished := sum(map(len, shards.values())):
                print(f"Going on with {self.folder}: {finished} of its files are finished")
        elif self.content.exists():
            print(f"{self.folder} is not of this conversion, or is damaged: starting anew")
            shutil.rmtree(self.content)
        if not self.finished():
            self._write_state()
            (self.content / "data").mkdir(parents=True, exist_ok=True)

    def write_shards(self, split: str, groups: Iterator[_Group], shard_bytes: int) -> None:
        """Writes groups, which follow on those in the finished shards, into shards of at most `shard_bytes`."""
        finished = self.shards.setdefault(split, [])
        group = next(groups, None)
        while group is not None:
            path = self._shard(split, len(finished))
            state: dict[str, Any] = {"left_out": []}
            counts: Counter[str] = Counter()
            size = 0
            with pq.ParquetWriter(path, FEATURES.arrow_schema, **PARQUET) as writer:
                while group is not None and (not counts or size + group.size <= shard_bytes):
                    writer.write_table(pa.Table.from_pylist(group.rows, schema=FEATURES.arrow_schema))
                    counts["videos"] += len(group.rows)
                    for row in group.rows:
                        counts["sentences"] += len(row["sentences"])
                        counts["instances"] += len(row["instance_ids"])
                        counts["annotated frames"] += len(row["annotated_frames"])
                    state["end"] = group.end
                    state["left_out"] += group.left_out
                    size += group.size
                    group = next(groups, None)
            finished.append({**state, "counts": counts, "bytes": path.stat().st_size})
            self._write_state()

    def counts(self) -> dict[str, dict[str, int]]:
        """What was counted, split by split."""
        return {
            split: {name: sum(state["counts"][name] for state in states) for name in states[0]["counts"]}
            | {"megabytes": round(sum(state["bytes"] for state in states) / 1e6)}
            for split, states in self.shards.items()
            if states
        }

    def finish(self, card: DatasetCard, left_out: Sequence[Mapping[str, str | None]]) -> None:
        """Gives the shards their names, adds card and left_out.jsonl, and makes it all a data set, at one blow."""
        for split, states in self.shards.items():
            for number in range(len(states)):
                if (path := self._shard(split, number)).exists():
                    path.rename(self._shard(split, number, len(states)))
        (self.content / "README.md").write_text(_card_text(card, self.counts()), encoding="utf-8")
        if left_out:
            lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in left_out)
            (self.content / LEFT_OUT).write_text(lines, encoding="utf-8")
        self.content.rename(self.output)


def _card_text(card: DatasetCard, counts: Mapping[str, Mapping[str, int]]) -> str:
    # No `configs` here: load_dataset finds the splits by the names of the shards. With `configs` it would take the name
    # of its cache from their patterns instead of the files' dates, and load what the folder held before (datasets 5.2).
    front = yaml.safe_dump(
        {
            "pretty_name": card.title,
            "license": card.license,
            "language": ["en"],
            "task_categories": ["image-segmentation"],
            "tags": ["video", "referring-video-object-segmentation", "video-language-segmentation"],
        },
        sort_keys=False,
    )
    columns = list(next(iter(counts.values())))
    table = [f"| split | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    table += [f"| {split} | {' | '.join(f'{number:,}' for number in row.values())} |" for split, row in counts.items()]
    schema = [f"| `{field.name}` | `{field.type}` |" for field in FEATURES.arrow_schema]
    return "\n".join(
        [
            f"---\n{front}---\n",
            f"# {card.title}\n",
            f"{card.description}\n",
            *table,
            "\nOne row is one video:\n",
            "| column | type |",
            "| --- | --- |",
            *schema,
            "\n`masks` holds, for each annotated frame and instance, the counts of a COCO compressed RLE of size "
            "[`height`, `width`] (null: not annotated there). Frame numbers count from 0; the `instances` of a "
            "sentence are indices into `instance_ids`, none where the sentence has no referent.\n",
            "```python",
            "from datasets import load_dataset\n",
            f'dataset = load_dataset("path/to/this/folder", split="{next(iter(counts))}")',
            "```\n",
            f"## License\n\n{card.license_note}\n",
            f"## Citation\n\n```bibtex\n{card.citation.strip()}\n```",
            "",
        ]
    )


def _identity(splits: Mapping[str, Sequence[Item]], convert: Convert, shard_bytes: int, problems: Problems) -> str:
    """A number of all that decides which bytes are written, except the content of the source's files."""
    digest = hashlib.sha256(
        pickle.dumps((convert, shard_bytes, str(FEATURES), PARQUET, pa.__version__, problems.left_out))
    )
    for split, items in splits.items():
        digest.update(f"{split} {len(items)}".encode())
        for item in items:
            digest.update(pickle.dumps(item))
    return digest.hexdigest()


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


def push_dataset(folder: Path, repo_id: str) -> None:
    """Uploads the folder that `write_dataset` wrote to the Hub's data set `repo_id` ("user/name").

    In one commit, so that nothing half-uploaded loads either; shards of an earlier conversion go with the same commit.
    """
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        delete_patterns=["data/*", LEFT_OUT],
        commit_message="Upload data set",
    )
    print(f"Uploaded {folder} to {repo_id}")


def write_dataset(
    output: Path,
    splits: Mapping[str, Sequence[Item]],
    convert: Convert,
    card: DatasetCard,
    num_proc: int = 1,
    problems: Problems | None = None,
    shard_bytes: int = SHARD_BYTES,
    push_to_hub: str | None = None,
) -> None:
    """Converts every video and writes the folder that `datasets.load_dataset(output)` loads.

    The folder appears under its name only when it is complete. Until then it grows in OUTPUT.partial, which loads as
    nothing; a run that was killed, or that met an error, is started again by the same call, keeps the shards that are
    finished and ends with the same bytes as if it had never ended. The source must not change in between.

    Args:
        output: the folder to write, must not exist.
        splits: for each split what `convert` turns into rows, one item a video. Items are pickled: also to tell
            whether an unfinished folder is of the same conversion, so they must pickle alike in every run (no sets).
        convert: item -> a row with the columns of `FEATURES`, or None to leave the video out, or
            (row or None, [(where, why), ...]) with what is wrong in the source and not in the row. A `ValueError` or
            `FileNotFoundError` is a problem of the whole video; its message names file and row. Runs in other processes
            if `num_proc` > 1; must be a function of a module (or a `functools.partial` of one).
        card: what the card (README.md) says.
        num_proc: processes that convert.
        problems: stops at the first problem, or collects them (the default stops); those it holds already are kept.
            What was left out is printed and stored in left_out.jsonl, a line {"split", "where", "why"} each.
        shard_bytes: most bytes of encoded video, masks and text in one Parquet file (a single video may have more).
        push_to_hub: "user/name" of a data set of the Hub to upload the finished folder to.

    Raises:
        FileExistsError: `output` exists.
        RuntimeError: another process is writing it.
        ValueError: no split has a video, a row has not the columns of `FEATURES`, or a problem in the source.
    """
    output = Path(output).absolute()
    problems = problems or Problems()
    splits = {split: items for split, items in splits.items() if items}
    if not splits:
        raise ValueError(f"nothing to write to {output}: no split has a video")
    unfinished = _Unfinished(output, _identity(splits, convert, shard_bytes, problems))
    started = perf_counter()
    with unfinished.locked():
        unfinished.open()
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
                groups = _row_groups(results, split, start, min(GROUP_BYTES, shard_bytes), problems)
                unfinished.write_shards(split, groups, shard_bytes)
        counts = unfinished.counts()
        if not counts:
            raise ValueError(f"nothing to write to {output}: every video was left out")
        if not unfinished.finished():
            unfinished.finish(card, problems.left_out)
        seconds, sentences = perf_counter() - started, sum(row["sentences"] for row in counts.values()) - before
        print(f"{sentences:,} sentences in {seconds:.0f} s: {sentences / seconds:.0f} a second")
        for split, row in counts.items():
            print(f"{split}: " + ", ".join(f"{number:,} {name}" for name, number in row.items()))
        if problems.left_out:
            print(f"Left out {len(problems.left_out):,}, all listed in {output / LEFT_OUT}:")
            for entry in problems.left_out[:10]:
                print(f"  {entry['where']}: {entry['why']}")
        print(f'Wrote {output}: load it with datasets.load_dataset("{output}")')
        if push_to_hub:
            push_dataset(output, push_to_hub)
        unfinished.done = True
