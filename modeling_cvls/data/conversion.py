"""What the scripts in dataset_scripts/ share: arguments, parallel reading, Parquet shards and a card."""

import os
import tempfile
from argparse import ArgumentParser, ArgumentTypeError
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tqdm import tqdm

from .schema import FEATURES

Item = TypeVar("Item")
Row = dict[str, Any]

SHARD_BYTES = 500_000_000
# Small groups: a reader holds one in memory, also to get a single row of a streamed data set.
GROUP_ROWS = 64
GROUP_BYTES = 32_000_000


@dataclass(frozen=True)
class DatasetCard:
    """What a data set's card says besides what is counted.

    Args:
        title: the data set's name.
        description: a paragraph, Markdown.
        licence: an identifier of the Hub ("other" where none fits).
        licence_note: a paragraph on the source's terms.
        citation: BibTeX.
    """

    title: str
    description: str
    licence: str
    licence_note: str
    citation: str


def conversion_parser(description: str, splits: Sequence[str]) -> ArgumentParser:
    """The arguments of every dataset script: --source, --output, --split, --num-proc.

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
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist yet")
    parser.add_argument("--split", nargs="+", choices=splits, metavar="SPLIT",
                        help=f"splits to convert, of {', '.join(splits)} (default: all that have videos)")  # fmt: skip
    parser.add_argument("--num-proc", type=processes, default=os.cpu_count(),
                        help="processes that read videos at the same time (default: one a core)")  # fmt: skip
    return parser


def _map_in_order(convert: Callable[[Item], Row], items: Sequence[Item], num_proc: int) -> Iterator[Row]:
    if num_proc == 1:
        yield from map(convert, items)
        return
    with ProcessPoolExecutor(num_proc) as pool:
        # Only so many at a time: Executor.map would keep every finished video in memory if writing were slower.
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(convert, item))
            if len(waiting) == 16 * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _row_bytes(row: Row) -> int:
    media = [row["video"], *(row["frames"] or [])]
    return sum(len(cell["bytes"]) for cell in media if cell is not None and cell["bytes"] is not None)


def _write_shards(rows: Iterable[Row], folder: Path, split: str, shard_bytes: int) -> dict[str, int]:
    """Writes `<split>-<shard>-of-<shards>.parquet` and returns what was counted on the way."""
    counts = {"videos": 0, "sentences": 0, "instances": 0, "annotated frames": 0, "megabytes": 0}
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    group: list[Row] = []
    group_bytes = written = 0

    def flush() -> None:
        nonlocal writer, group_bytes, written
        if writer is not None and written + group_bytes > shard_bytes:
            writer.close()
            writer = None
        if writer is None:
            shards.append(folder / f"{split}-{len(shards):05d}.parquet")
            writer = pq.ParquetWriter(shards[-1], FEATURES.arrow_schema)
            written = 0
        writer.write_table(pa.Table.from_pylist(group, schema=FEATURES.arrow_schema))
        written += group_bytes
        group.clear()
        group_bytes = 0

    try:
        for row in rows:
            # pyarrow would take a missing column for null and drop one that is too many.
            if row.keys() != FEATURES.keys():
                wrong = sorted(row.keys() ^ FEATURES.keys())
                raise ValueError(f"video {row.get('video_id')!r}: columns missing or too many: {', '.join(wrong)}")
            size = _row_bytes(row)
            if group and (len(group) == GROUP_ROWS or group_bytes + size > min(GROUP_BYTES, shard_bytes)):
                flush()
            group.append(row)
            group_bytes += size
            counts["videos"] += 1
            counts["sentences"] += len(row["sentences"])
            counts["instances"] += len(row["instance_ids"])
            counts["annotated frames"] += len(row["annotated_frames"])
        if group:
            flush()
    finally:
        if writer is not None:
            writer.close()
    for number, shard in enumerate(shards):
        shard = shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
        counts["megabytes"] += shard.stat().st_size
    counts["megabytes"] = round(counts["megabytes"] / 1e6)
    return counts


def _card_text(card: DatasetCard, counts: Mapping[str, Mapping[str, int]]) -> str:
    # No `configs` here: load_dataset finds the splits by the names of the shards. With `configs` it would take the name
    # of its cache from their patterns instead of the files' dates, and load what the folder held before (datasets 5.2).
    front = yaml.safe_dump(
        {
            "pretty_name": card.title,
            "license": card.licence,
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
            f"## Licence\n\n{card.licence_note}\n",
            f"## Citation\n\n```bibtex\n{card.citation.strip()}\n```",
            "",
        ]
    )


def write_dataset(
    output: Path,
    splits: Mapping[str, Sequence[Item]],
    convert: Callable[[Item], Row],
    card: DatasetCard,
    num_proc: int = 1,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Converts every video and writes the folder that `datasets.load_dataset(output)` loads.

    The folder appears under its name only when it is complete; nothing half-written is left behind.

    Args:
        output: the folder to write, must not exist.
        splits: for each split what `convert` turns into rows, one item a video.
        convert: item -> a row with the columns of `FEATURES`; runs in other processes if `num_proc` > 1, so it must
            be a function of a module (or a `functools.partial` of one).
        card: what the card (README.md) says.
        num_proc: processes that convert.
        shard_bytes: most bytes of encoded video in one Parquet file.

    Raises:
        FileExistsError: `output` exists.
        ValueError: no split has a video, or a row has not the columns of `FEATURES`.
    """
    output = Path(output).absolute()
    if output.exists():
        raise FileExistsError(f"{output} exists already; remove it or choose another --output")
    if not any(splits.values()):
        raise ValueError(f"nothing to write to {output}: no split has a video")
    output.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that renaming it at the end moves nothing between file systems.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary) / output.name
        (folder / "data").mkdir(parents=True)
        counts = {}
        for split, items in splits.items():
            if items:
                rows = tqdm(_map_in_order(convert, items, num_proc), total=len(items), desc=split, unit="video")
                counts[split] = _write_shards(rows, folder / "data", split, shard_bytes)
        (folder / "README.md").write_text(_card_text(card, counts), encoding="utf-8")
        folder.rename(output)
    for split, row in counts.items():
        print(f"{split}: " + ", ".join(f"{number:,} {name}" for name, number in row.items()))
    print(f'Wrote {output}: load it with datasets.load_dataset("{output}")')
