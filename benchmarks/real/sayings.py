"""Sentences about real pictures: nouns, colors, places and sizes that hold, and sentences about what is not there."""

import numpy as np
from sources import Source

from modeling_cvls.composites.catalog import PEOPLE
from modeling_cvls.composites.compositing import natural_color
from modeling_cvls.synthetic.sentences import pick

#: What may be said in place of each other: a sentence with one is no sentence without a referent where another is.
GROUPS = (
    PEOPLE,
    frozenset(("duck", "bird", "flamingo", "swan")),
    frozenset(("motorbike", "motorcycle", "scooter", "bicycle", "cyclist", "biker")),
    frozenset(("car", "truck", "bus")),
    frozenset(("boat", "ship", "surfboard", "windsurfer", "surfer")),
    frozenset(("ball", "sports ball")),
    frozenset(("chair", "couch", "bench", "bed")),
    frozenset(("cup", "bowl", "bottle", "wine glass", "vase")),
)
ANIMALS = frozenset("dog cat bear cow sheep giraffe elephant rhino rhinoceros horse bird duck flamingo zebra".split())
VEHICLES = frozenset("car truck bus train boat ship motorbike motorcycle scooter airplane".split())
TEMPLATES = (
    "the {}", "the {}", "the {}", "a {}", "{}", "the {} in the picture", "the {} in this video",
    "a {} that can be seen", "the {} shown here", "there is a {}", "the {} in the scene", "the {} here",
    "where is the {}",
)  # fmt: skip
#: What may be added where it is true of an object: of its place and its size in the picture.
PLACES = {
    "middle": ("the {} in the middle of the picture", "a {} in the center of the scene"),
    "left side": ("the {} on the left side of the picture", "a {} near the left edge of the frame"),
    "right side": ("the {} on the right side of the picture", "a {} near the right edge of the frame"),
    "near": ("the {} close to the camera", "the big {} in the foreground", "a {} that fills much of the picture"),
    "far": ("the {} far away from the camera", "a small {} in the distance"),
}
BESIDE = ("the {} next to the {}", "a {} beside the {}", "the {} that is seen together with the {}")
#: What is true of one of several things of the same name.
SIDES = {
    "left": ("the {} on the left", "the left {}", "the leftmost {}", "the {} on the left side"),
    "right": ("the {} on the right", "the right {}", "the rightmost {}", "the {} on the right side"),
    "top": ("the {} at the top", "the upper {}", "the highest {}"),
    "bottom": ("the {} at the bottom", "the lower {}", "the lowest {}"),
    "large": ("the largest {}", "the big {}", "the larger {}"),
    "small": ("the smallest {}", "the small {}", "the smaller {}"),
}
#: A thing of a view: its source, and its number there.
Thing = tuple[Source, int]
Said = tuple[str, tuple[int, ...]]


def group_of(words: frozenset[str] | set[str] | tuple[str, ...]) -> frozenset[str]:
    """The words and all that could be said in their place."""
    found = set(words)
    for group in GROUPS:
        if found & group:
            found |= group
    if found & ANIMALS:
        found.add("animal")
    if found & VEHICLES:
        found.add("vehicle")
    return frozenset(found)


def drop_words(rng: np.random.Generator, text: str, kept: frozenset[str]) -> str:
    """A long sentence without some of its words, as people say the same thing in more and in fewer words."""
    words = text.split()
    if len(words) < 5:
        return text
    share = rng.uniform(0, 0.4)
    return " ".join(word for word in words if word in kept or rng.random() > share) or text


def fill(rng: np.random.Generator, templates: tuple[str, ...], *nouns: str) -> str:
    """One of the templates with the nouns in it, and the article that the first one takes."""
    text = pick(rng, templates).format(*nouns)
    return text.replace(f"a {nouns[0]}", f"an {nouns[0]}") if nouns[0][0] in "aeiou" else text


def statistics(labels: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Areas (N,) and centers (N, 2) as (x, y), shares of the picture, of the labels 1 to N of a clip (T, H, W)."""
    areas, centers = np.zeros(number), np.zeros((number, 2))
    for index in range(number):
        _, rows, columns = np.nonzero(labels == index + 1)
        areas[index] = len(rows) / labels.size
        if len(rows):
            centers[index] = columns.mean() / labels.shape[2], rows.mean() / labels.shape[1]
    return areas, centers


def _true_places(index: int, areas: np.ndarray, centers: np.ndarray) -> list[str]:
    x = centers[index, 0]
    found = ["middle"] if 0.38 < x < 0.62 else ["left side"] if x < 0.3 else ["right side"] if x > 0.7 else []
    return found + (["near"] if areas[index] > 0.25 else ["far"] if areas[index] < 0.025 else [])


def _true_sides(index: int, rivals: list[int], areas: np.ndarray, centers: np.ndarray) -> list[str]:
    """What is true of an object alone among its rivals, clearly."""
    x, y = (centers[index] - centers[rivals]).T
    found = [name for name, gaps in (("left", -x), ("right", x), ("top", -y), ("bottom", y)) if gaps.min() > 0.12]
    if (areas[index] > 1.8 * areas[rivals]).all():
        found.append("large")
    if (1.8 * areas[index] < areas[rivals]).all():
        found.append("small")
    return found


class Speaker:
    """Says what is true of a view, and what is not there.

    Args:
        videos, stills: all sources of the views.
    """

    def __init__(self, videos: list[Source], stills: list[Source]):
        self.videos = videos
        self.nouns = sorted({noun for source in videos + stills for nouns in source.nouns.values() for noun in nouns})
        self.colors: dict[tuple[str, int], str | None] = {}

    def true(self, rng: np.random.Generator, things: list[Thing], labels: np.ndarray) -> list[Said]:
        """Sentences that each fit one thing alone, those that are to be said more often several times.

        Args:
            things: the source of each thing of the view, and its number there.
            labels: (T, H, W), 1 for the first of them.
        """
        areas, centers = statistics(labels, len(things))
        sources = {source.name: source for source, _ in things}
        words = frozenset(word for source in sources.values() for word in group_of(source.words))
        kept = frozenset(word for noun in words for word in noun.split())
        said: list[Said] = []
        for index, (source, key) in enumerate(things):
            others = [other for other in sources.values() if other is not source]
            elsewhere = frozenset(word for other in others for word in group_of(other.words))
            if not group_of(source.nouns[key]) & elsewhere and sum(of is source for of, _ in things) == 1:
                texts = [text for text, of in source.sentences if of == key]
                said += [(drop_words(rng, text, kept), (index,)) for text in 3 * texts]
            for noun in source.nouns[key]:
                unmarked = len(source.frames) > 1 and noun in source.around
                hidden = any(
                    noun in other.words and not any(noun in nouns for nouns in other.nouns.values()) for other in others
                )
                rivals = [i for i, (of, k) in enumerate(things) if i != index and noun in of.nouns[k]]
                if unmarked or hidden:
                    continue
                if rivals:
                    sides = _true_sides(index, rivals, areas, centers)
                    said += 2 * [(fill(rng, SIDES[side], noun), (index,)) for side in sides]
                else:
                    texts = self._of_one(rng, things, index, noun, _true_places(index, areas, centers))
                    said += [(text, (index,)) for text in texts]
        return said

    def _of_one(
        self, rng: np.random.Generator, things: list[Thing], index: int, noun: str, places: list[str]
    ) -> list[str]:
        """Sentences on the only thing of its name."""
        source, key = things[index]
        alone = not any(ANIMALS & of.words for of, _ in things if of is not source) and len(things) < 3
        texts = [fill(rng, TEMPLATES, "animal" if noun in ANIMALS and alone else noun)]
        color = self._color(source, key)
        if color and rng.random() < 0.5:
            texts.append(fill(rng, TEMPLATES, f"{color} {noun}"))
        texts += [fill(rng, PLACES[place], noun) for place in places]
        beside = [of.nouns[k][-1] for i, (of, k) in enumerate(things) if i != index and of is source]
        beside = [other for other in beside if beside.count(other) == 1 and other != noun]
        return texts + ([fill(rng, BESIDE, noun, pick(rng, beside))] if beside else [])

    def _color(self, source: Source, key: int) -> str | None:
        """What color a thing clearly has."""
        if (source.name, key) not in self.colors:
            pixels = source.frames[0][source.labels[0] == key]
            clear = len(pixels) and not PEOPLE.intersection(source.nouns[key])
            self.colors[source.name, key] = natural_color(pixels) if clear else None
        return self.colors[source.name, key]

    def false(self, rng: np.random.Generator, sources: list[Source]) -> str | None:
        """A sentence about something that the sources do not show; None where they may show all there is."""
        words = group_of(frozenset(word for source in sources for word in source.words))
        # Who else is to be seen in a video is not written down.
        crowded = any(len(source.frames) > 1 for source in sources)
        if rng.random() < 0.5:
            other = pick(rng, self.videos)
            meant = group_of(frozenset(noun for nouns in other.nouns.values() for noun in nouns))
            if meant & words or (crowded and meant & PEOPLE):
                return None
            return drop_words(rng, pick(rng, other.sentences)[0], meant)
        absent = [noun for noun in self.nouns if noun not in words and not (crowded and noun in PEOPLE)]
        return fill(rng, TEMPLATES, pick(rng, absent)) if absent else None
