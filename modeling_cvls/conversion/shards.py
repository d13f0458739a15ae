"""Parquet shards that a killed conversion can go on with, and the moment at which they become a data set."""

import hashlib
import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic import only_one
from ..data.schema import FEATURES
from .card import Description, make_dataset_card
from .problems import Problem, Problems

Row = dict[str, Any]

# Of what is stored; what Parquet adds to it stays far below the rest of 500 MB.
SHARD_BYTES = 480_000_000
# Small groups: a reader holds one in memory, also to get a single row of a streamed data set.
GROUP_ROWS = 64
GROUP_BYTES = 8_000_000
# Encoded video repeats nothing that a dictionary could hold, and has no smallest or largest value worth a note.
PARQUET = {"use_dictionary": False, "write_statistics": False}
LEFT_OUT = "left_out.jsonl"
# In a finished folder: which conversion wrote it. load_dataset and the Hub's viewer pass over hidden files.
CONVERSION = ".conversion.json"


def row_bytes(row: Row) -> int:
    """Bytes of the encoded video, masks and text of a row."""
    media = [row["video"], *(row["frames"] or [])]
    size = sum(len(cell["bytes"]) for cell in media if cell is not None and cell["bytes"] is not None)
    size += sum(len(counts) for masks in row["masks"] for counts in masks if counts is not None)
    return size + sum(len(sentence["text"]) for sentence in row["sentences"])


@dataclass
class RowGroup:
    """Rows that are written at once, and what is known of the items that they were made from.

    `end` is the number of items of the split up to the end of the group; `left_out` belongs to those it adds.
    """

    rows: list[Row] = field(default_factory=list)
    size: int = 0
    end: int = 0
    left_out: list[Problem] = field(default_factory=list)


def row_groups(
    results: Iterable[tuple[Row | None, list[Problem]]], split: str, start: int, most_bytes: int, problems: Problems
) -> Iterator[RowGroup]:
    """Collects rows into groups whose ends depend on nothing but the rows since the last end.

    Args:
        results: of the items of `split` from number `start` on.
        split: its name.
        start: the number of items that earlier groups took.
        most_bytes: of a group, unless it has a single row.
        problems: told of what is wrong.

    Raises:
        ValueError: a row has not the columns of `FEATURES`, or a problem that stops.
    """
    group = RowGroup(end=start)
    for row, found in results:
        found = [(where or f"{split}, video {group.end + 1}", why) for where, why in found]
        for where, why in found:
            problems.found(where, why, split)
        if row is not None:
            # pyarrow would take a missing column for null and drop one that is too many.
            if row.keys() != FEATURES.keys():
                wrong = sorted(row.keys() ^ FEATURES.keys())
                raise ValueError(f"video {row.get('video_id')!r}: columns missing or too many: {', '.join(wrong)}")
            size = row_bytes(row)
            if group.rows and (len(group.rows) == GROUP_ROWS or group.size + size > most_bytes):
                yield group
                group = RowGroup(end=group.end)
            group.rows.append(row)
            group.size += size
        group.left_out += found
        group.end += 1
    if group.rows:
        yield group


def identity_of(
    splits: Mapping[str, Sequence], convert: Callable, description: Description, shard_bytes: int, problems: Problems
) -> str:
    """A digest of everything that decides which bytes are written, except the content of the source's files."""
    settings = (convert, description, shard_bytes, str(FEATURES), PARQUET, pa.__version__, problems.left_out)
    digest = hashlib.sha256(pickle.dumps(settings))
    for split, items in splits.items():
        digest.update(f"{split} {len(items)}".encode())
        for item in items:
            digest.update(pickle.dumps(item))
    return digest.hexdigest()


class UnfinishedDataset:
    """OUTPUT.partial, a data set on its way: all in a hidden folder, where load_dataset finds nothing, and its state.

    The state names the conversion (`identity`) and, for each split, the shards that are finished: how many items of
    the split they and those before them took (`end`), what they hold (`counts`, `bytes`) and what was left out. It is
    replaced as a whole after each shard, so a conversion that was killed goes on behind its last finished shard.

    Args:
        output: the folder to write.
        identity: the digest of `identity_of`.
    """

    def __init__(self, output: Path, identity: str):
        self.output = output
        self.identity = identity
        self.folder = output.with_name(output.name + ".partial")
        self.content = self.folder / ".dataset"
        self.state_file = self.folder / ".state.json"
        self.shards: dict[str, list[dict[str, Any]]] = {}

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

    def is_complete(self) -> bool:
        """True where an earlier run of this conversion wrote the folder to its end."""
        path = self.output / CONVERSION
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == {"identity": self.identity}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out; at the end OUTPUT.partial goes if there is nothing to go on with.

        Raises:
            FileExistsError: something is in the way that this conversion did not write.
            BlockingIOError: another process is at it.
        """
        if self.output.exists() and not self.is_complete():
            raise FileExistsError(
                f"{self.output} exists already, and not from this source with these options; remove it or choose "
                "another --output"
            )
        if self.folder.exists() and not all(path.name.startswith(".") for path in self.folder.iterdir()):
            raise FileExistsError(f"{self.folder} is needed while writing, but holds something else; move it away")
        over = False
        try:
            with only_one(self.folder / ".lock", BlockingIOError(f"another process is writing {self.output}")):
                try:
                    yield
                finally:
                    over = self.is_complete() or not any(self.shards.values())
                    if over:
                        shutil.rmtree(self.content, ignore_errors=True)
                        self.state_file.unlink(missing_ok=True)
        finally:
            if over:
                shutil.rmtree(self.folder)

    def open(self) -> None:
        """Takes up what an earlier run of this conversion has finished, or starts anew."""
        shards = self._read_state()
        if shards is not None and self._is_whole(shards):
            self.shards = shards
            if finished := sum(map(len, shards.values())):
                print(f"Going on with {self.folder}: {finished} of its files are finished")
        elif self.content.exists():
            print(f"{self.folder} is not of this conversion, or is damaged: starting anew")
            shutil.rmtree(self.content)
        self._write_state()
        (self.content / "data").mkdir(parents=True, exist_ok=True)

    def write_shards(self, split: str, groups: Iterator[RowGroup], shard_bytes: int) -> None:
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

    def finish(self, description: Description, left_out: Sequence[Mapping[str, str | None]]) -> None:
        """Gives the shards their names, adds card and left_out.jsonl, and makes it all a data set, at one blow."""
        for split, states in self.shards.items():
            for number in range(len(states)):
                if (path := self._shard(split, number)).exists():
                    path.rename(self._shard(split, number, len(states)))
        make_dataset_card(description, self.counts()).save(self.content / "README.md")
        if left_out:
            lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in left_out)
            (self.content / LEFT_OUT).write_text(lines, encoding="utf-8")
        (self.content / CONVERSION).write_text(json.dumps({"identity": self.identity}), encoding="utf-8")
        self.content.rename(self.output)
