"""Changes of whole clips in training, the same for all frames, that leave every sentence of the clip true."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

#: Words that speak of a place in the picture, which a crop would change.
PLACE = re.compile(
    r"\b(left|right|top|bottom|upper|lower|middle|cent(er|re)|corner|side|edge|border|(high|low|upper|lower|left|right|"
    r"top|bottom|middle|center)(most|est)|foreground|background|picture|image|frame|screen|video)s?\b",
    re.IGNORECASE,
)

#: Words that name a color, which a change of hue would make untrue.
COLOR = re.compile(
    r"\b((red|green|blue|yellow|orange|purple|violet|pink|brown|black|white|gr[ae]y|gold|golden|silver|beige|tan|cyan|"
    r"magenta|maroon|navy|turquoise|teal|cream|ginger|blonde?|brunette|bronze|khaki|lime|crimson|scarlet|dark|light|"
    r"bright|pale)(er|est|dish|nish|ish|ing|ed|s)?|(whit|blu|purpl|orang)ish|colou?r(s|ed|ful)?)\b",
    re.IGNORECASE,
)

#: Words that speak of motion or of order in time, which a reversed clip would make untrue. Any word in -ing that is not
#: the name of a thing counts as motion: a clip too many stays as it is.
MOTION = re.compile(
    r"\b((?!(thing|something|anything|nothing|everything|wing|ring|king|string|spring|ceiling|building|clothing|"
    r"painting|morning|evening|wedding|railing|herring|pudding|darling|sibling|earring)s?\b)\w{2,}ing|"
    r"(move|go|goe|walk|run|jump|leap|turn|come|leave|enter|exit|fall|rise|rais|swim|fly|flie|climb|crawl|roll|drive|ride|"
    r"throw|catch|catche|kick|hit|drop|lift|open|close|pull|push|pushe|stop|start|begin|end|appear|disappear|cross|"
    r"crosse|follow|pass|passe|approach|approache|spin|rotate|bounce|slide|swing|chase|pick|put|get|take|give|bring|"
    r"carry|carrie|land|dive|dance|circle|skate|ski|speed|slow|accelerate|reverse|return|flip|bend|stretch|shake|wave|"
    r"sit|stand|lie)s?|(mov|walk|jump|turn|ent?er|climb|roll|kick|lift|open|clos|pull|push|stopp|start|appear|pass|cross|"
    r"follow|chas|dropp|pick|land)ed|"
    r"went|came|left (the|a|his|her|its)|ran|fell|rose|flew|swam|threw|caught|took|gave|brought|"
    r"(to|a|for|back|up|down|in|out)wards?|away|up|down|into|out|onto|off|past|through|across|along|around|over|"
    r"first(ly)?|second(ly)?|third|last(ly)?|then|before|after(wards)?|later|earlier|final(ly)?|begin(ning)?|initial(ly)?|"
    r"event(ual)?ly|until|while|when|next|previous(ly)?|again|still|already|once|now)\b",
    re.IGNORECASE,
)

#: The share of a referent's pixels that a crop or a warp must leave in the clip, and how often one is tried.
KEPT_SHARE = 0.25
TRIES = 10


@dataclass(frozen=True)
class ClipAugmentation:
    """What is done to a clip besides the flip; all of it is off by default.

    Args:
        crop_probability: how often a part of the picture is cut out, the same in all frames, each side at least
            `smallest_crop` of the whole. The clip is left whole where a sentence speaks of a place in the picture, and
            where no crop is found that keeps a part of a referent of each sentence.
        smallest_crop: 384 of 600 pixels in ReferFormer.
        color_probability: how often the colors change: brightness, contrast and saturation, each in half of the cases;
            hue and the order of the channels only where no sentence names a color.
        reverse_probability: how often a clip is shown backward; never where a sentence speaks of motion or of order.
        still_frames: a clip of one frame becomes this many copies of it, each turned, shifted and distorted a little,
            as in ReferFormer's training on images and videos together. 1: it stays one frame.

    Raises:
        ValueError: a probability outside [0, 1], or a size that cannot be.
    """

    crop_probability: float = 0.0
    smallest_crop: float = 0.64
    color_probability: float = 0.0
    reverse_probability: float = 0.0
    still_frames: int = 1

    def __post_init__(self):
        for name in ("crop_probability", "color_probability", "reverse_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop is a share of the side in (0, 1], got {self.smallest_crop}")
        if self.still_frames < 1:
            raise ValueError(f"still_frames must be at least 1, got {self.still_frames}")

    def __call__(self, clip: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """Changes a clip as `ClipSampler` draws it; its arrays are replaced, never written to."""
        text = "\n".join(clip["sentences"])
        if len(clip["frames"]) == 1 and self.still_frames > 1:
            clip = warp_still(clip, self.still_frames, generator)
        elif _happens(self.reverse_probability, generator) and not MOTION.search(text):
            names = ("frames", "masks", "annotated_frames", "annotated_instances")
            clip = clip | {name: np.ascontiguousarray(clip[name][::-1]) for name in names}
        if _happens(self.crop_probability, generator) and not PLACE.search(text):
            clip = crop(clip, self.smallest_crop, generator)
        if _happens(self.color_probability, generator):
            frames = change_colors(clip["frames"], generator, hue=not COLOR.search(text))
            clip = clip | {"frames": frames}
        return clip


def crop(clip: dict[str, Any], smallest: float, generator: torch.Generator) -> dict[str, Any]:
    """Cuts the same part out of all frames, each side at least `smallest` of the whole; the clip as it is where
    `TRIES` parts keep too little of a referent."""
    height, width = clip["frames"].shape[1:3]
    for _ in range(TRIES):
        spans = []
        for side in (height, width):
            least = math.ceil(smallest * side)
            length = least + _draw(side - least + 1, generator)
            start = _draw(side - length + 1, generator)
            spans.append(slice(start, start + length))
        masks = clip["masks"][..., spans[0], spans[1]]
        if keeps_referents(clip, masks):
            frames = np.ascontiguousarray(clip["frames"][:, spans[0], spans[1]])
            return clip | {"frames": frames, "masks": np.ascontiguousarray(masks)}
    return clip


def keeps_referents(clip: dict[str, Any], masks: np.ndarray) -> bool:
    """Whether the changed `masks` (T', M, H', W') still show a part of a referent of each sentence that had one."""
    before, after = (np.asarray(m.sum(axis=(0, 2, 3)), float) for m in (clip["masks"], masks))
    before /= len(clip["masks"])
    after /= len(masks)
    kept = (before > 0) & (after >= KEPT_SHARE * before)
    visible = clip["referents"] & (before > 0)
    return bool((visible & kept).any(axis=1)[visible.any(axis=1)].all())


def change_colors(frames: np.ndarray, generator: torch.Generator, hue: bool) -> np.ndarray:
    """Changes the colors of all frames alike. The bounds keep what is black, white or red that.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        hue: whether hue and the order of the channels may change.
    """
    pictures = torch.from_numpy(frames).float()
    if _happens(0.5, generator):
        pictures = pictures + 32 * _uniform(-1, 1, generator)  # brightness
    if _happens(0.5, generator):
        mean = pictures.mean()
        pictures = mean + (pictures - mean) * _uniform(0.7, 1.3, generator)  # contrast
    if _happens(0.5, generator):
        gray = (pictures @ torch.tensor([0.299, 0.587, 0.114]))[..., None]
        pictures = gray + (pictures - gray) * _uniform(0.7, 1.3, generator)  # saturation
    if hue and _happens(0.5, generator):
        pictures = pictures @ hue_rotation(math.radians(18 * _uniform(-1, 1, generator))).T
    if hue and _happens(0.5, generator):
        pictures = pictures[..., torch.randperm(3, generator=generator)]
    return pictures.round().clamp(0, 255).to(torch.uint8).numpy()


def hue_rotation(angle: float) -> torch.Tensor:
    """The (3, 3) matrix that turns the colors of RGB pixels by `angle` radians around the axis of the grays, which stay
    as they are (Rodrigues' formula)."""
    axis = torch.full((3,), 3**-0.5, dtype=torch.float64)
    x, y, z = axis.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64) * math.cos(angle) + cross * math.sin(angle)
    return (turn + torch.outer(axis, axis) * (1 - math.cos(angle))).float()


def warp_still(clip: dict[str, Any], number: int, generator: torch.Generator) -> dict[str, Any]:
    """A clip of one frame -> a clip of `number` copies: each with a perspective of 0.08, a turn of up to 20 degrees, a
    shift of up to 10 % of each side, up to 16 levels brighter or darker, and one in four slightly blurred.

    What comes in from outside the picture is black. A copy stays as it is where it would lose too much of a referent.
    """
    height, width = clip["frames"].shape[1:3]
    frame = torch.from_numpy(clip["frames"]).permute(0, 3, 1, 2).float()
    mask = torch.from_numpy(clip["masks"])
    frames, masks = [], []
    for _ in range(number):
        for _ in range(TRIES):
            grid = _grid(random_homography(height, width, generator), height, width)
            moved = F.grid_sample(mask.float(), grid, mode="nearest", align_corners=False) > 0.5
            if keeps_referents(clip, moved.numpy()):
                break
        else:
            grid, moved = _grid(torch.eye(3, dtype=torch.float64), height, width), mask
        picture = F.grid_sample(frame, grid, mode="bilinear", align_corners=False)
        picture = picture + 16 * _uniform(-1, 1, generator) * (picture.amax(1, keepdim=True) > 0)
        if _happens(0.25, generator):
            picture = F.avg_pool2d(picture, 3, stride=1, padding=1, count_include_pad=False)
        frames.append(picture.round().clamp(0, 255).to(torch.uint8))
        masks.append(moved)
    return clip | {
        "frames": np.ascontiguousarray(torch.cat(frames).permute(0, 2, 3, 1).numpy()),
        "masks": torch.cat(masks).numpy(),
        "annotated_frames": np.repeat(clip["annotated_frames"], number, axis=0),
        "annotated_instances": np.repeat(clip["annotated_instances"], number, axis=0),
    }


def random_homography(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """A (3, 3) map of points (x, y, 1), in pixels from the center of a picture, to where they are taken from."""
    angle = math.radians(20 * _uniform(-1, 1, generator))
    shift_x, shift_y = (0.1 * side * _uniform(-1, 1, generator) for side in (width, height))
    cos, sin = math.cos(angle), math.sin(angle)
    rigid = torch.tensor([[cos, -sin, shift_x], [sin, cos, shift_y], [0, 0, 1]], dtype=torch.float64)
    perspective = torch.eye(3, dtype=torch.float64)
    # at the end of an axis the picture is up to 8 % nearer or farther
    perspective[2, 0] = 0.08 * _uniform(-1, 1, generator) / (width / 2)
    perspective[2, 1] = 0.08 * _uniform(-1, 1, generator) / (height / 2)
    return rigid @ perspective


def _grid(homography: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What `grid_sample` takes for a map of pixels: (1, height, width, 2)."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5 - height / 2,
        torch.arange(width, dtype=torch.float64) + 0.5 - width / 2,
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ homography.T
    places = points[..., :2] / points[..., 2:]
    return (places / torch.tensor([width / 2, height / 2], dtype=torch.float64)).float()[None]


def _happens(probability: float, generator: torch.Generator) -> bool:
    return probability > 0 and _uniform(0, 1, generator) < probability


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _draw(number: int, generator: torch.Generator) -> int:
    return int(torch.randint(number, (), generator=generator))
