"""The page's examples: videos NAME.mp4 with sentences in NAME.txt, one per line."""

from pathlib import Path

from ..synthetic import make_scene, render
from ..visualization import write_video


def write_examples(folder: Path) -> None:
    """Writes three synthetic scenes, such as `make demo` trains on."""
    for index in range(3):
        scene, sentences = make_scene("test", index, size=256)
        write_video(folder / f"scene_{index + 1}.mp4", render(scene)[0], fps=8)
        text = "\n".join(sentence.text for sentence in sentences[:3])
        (folder / f"scene_{index + 1}.txt").write_text(text, encoding="utf-8")


def read_examples(folder: Path, max_sentences: int) -> list[tuple[str, list[str]]]:
    """The paths of the videos, each with at most so many of its sentences."""
    found = {
        path.with_suffix(".mp4").resolve(): path.read_text(encoding="utf-8").splitlines()
        for path in sorted(folder.glob("*.txt"))
    }
    return [(str(path), list(filter(str.strip, lines))[:max_sentences]) for path, lines in found.items()]
