"""The card of a converted data set: dataset_card.md filled with what is said of the set and what was counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from ..data.schema import FEATURES

TEMPLATE = Path(__file__).with_name("dataset_card.md")


@dataclass(frozen=True)
class Description:
    """What a data set's card says besides what is counted.

    Args:
        title: the data set's name.
        description: a paragraph in Markdown.
        license: an identifier of the Hub ("other" where none fits).
        license_note: a paragraph on the source's terms.
        citation: BibTeX; empty where there is nothing to cite.
    """

    title: str
    description: str
    license: str
    license_note: str
    citation: str = ""


def terms_note(names: str) -> str:
    """A `license_note` for sets that others published, whose names it is given."""
    return (
        "Videos, masks and sentences remain under the terms of those who published them (a synthetic set in this "
        f"layout under those of its generator). Read the terms of {names} before passing this conversion on."
    )


def make_dataset_card(description: Description, counts: Mapping[str, Mapping[str, int]]) -> DatasetCard:
    """Fills dataset_card.md.

    Args:
        description: what is said of the data set.
        counts: for each split what was counted, by name.
    """
    # There are no `configs` here: load_dataset finds the splits by the names of the shards. With `configs` it would
    # name its cache after their patterns instead of the files' dates, and load what the folder held before
    # (datasets 5.2).
    data = DatasetCardData(
        pretty_name=description.title,
        license=description.license,
        language=["en"],
        task_categories=["image-segmentation"],
        tags=["video", "referring-video-object-segmentation", "video-language-segmentation"],
    )
    columns = list(next(iter(counts.values())))
    table = [f"| split | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    table += [f"| {split} | {' | '.join(f'{number:,}' for number in row.values())} |" for split, row in counts.items()]
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=description.title,
        description=description.description,
        counts="\n".join(table),
        schema="\n".join(f"| `{field.name}` | `{field.type}` |" for field in FEATURES.arrow_schema),
        split=next(iter(counts)),
        license_note=description.license_note,
        citation=description.citation.strip(),
    )
