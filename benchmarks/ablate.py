"""Trains and tests the variants of an ablation, each over several seeds: `python benchmarks/ablate.py CONFIG.yaml`.

All runs of a seed see the same clips in the same order and start from the same weights; they differ in the flags of
their variant and in nothing else. A run that is done is not done again, and one that was stopped goes on from its last
checkpoint: the same command resumes. Writes to the config's `output`: one folder per run with its log, checkpoint and
metrics; `results.json` with the raw numbers, each run's commit and machine; `results.md`, the tables; `results.png`.
"""

import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from tqdm import tqdm

from modeling_cvls.synthetic import KINDS

ROOT = Path(__file__).resolve().parents[1]
#: name in a table -> where it stands in what `cvls eval` writes
METRICS = {
    "mean IoU": "mean_iou",
    "overall IoU": "overall_iou",
    "P@0.5": "precision@0.5",
    "accuracy": "referent_accuracy",
}
NO_REFERENT = "rightly empty"


@dataclass
class Ablation:
    """An ablation's config.

    Attributes:
        train: YAML file of `cvls train` that all runs share.
        output: folder for everything written.
        seeds: of the runs; initial weights and data order follow from them.
        more_seeds: variant -> further seeds, where a difference is too small for `seeds` to show.
        variants: name -> flags of `cvls train`, as `model.config.contrast_weight: 0`.
        flags: of all runs, over what stands in `train`.
        scenes: split -> number of videos of the look-alikes benchmark, made once in `<output>/dataset`.
        dataset: folder or Hub name of a data set, in place of `scenes`.
        test_splits: the splits that every run is tested on.
        comparisons: pairs [better, worse] of variants whose difference is reported, seed by seed.
        jobs: runs at a time.
        threads: threads of a run.
        scene_size: height and width of the scenes, pixels.
        scene_frames: frames of a scene.
    """

    train: str
    output: str
    seeds: list[int]
    variants: dict[str, dict]
    more_seeds: dict[str, list[int]] = field(default_factory=dict)
    scenes: dict[str, int] = field(default_factory=dict)
    dataset: str | None = None
    flags: dict = field(default_factory=dict)
    comparisons: list[list[str]] = field(default_factory=list)
    test_splits: list[str] = field(default_factory=lambda: ["test", "heldout"])
    jobs: int = 1
    threads: int = 1
    scene_size: int = 64
    scene_frames: int = 8

    @classmethod
    def read(cls, path: str) -> "Ablation":
        """Raises ValueError for a key that does not exist or is missing, and for one that names no variant."""
        config = yaml.safe_load(Path(path).read_text())
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(config) - set(known))
        missing = [name for name in ("train", "output", "seeds", "variants") if name not in config]
        if unknown or missing:
            raise ValueError(f"{path}: unknown keys {unknown}, missing keys {missing}; there are {', '.join(known)}")
        if ("scenes" in config) == ("dataset" in config):
            raise ValueError(f"{path}: give either `scenes`, to make them, or the `dataset` to use")
        ablation = cls(**config)
        compared = itertools.chain(*ablation.comparisons)
        for key, named in (("comparisons", compared), ("more_seeds", ablation.more_seeds)):
            strangers = sorted(set(named) - set(ablation.variants))
            if strangers:
                raise ValueError(f"{path}: `{key}` names {', '.join(strangers)}, which is not among the variants")
        return ablation

    def environment(self) -> dict[str, str]:
        """Of the runs. glibc would give the memory of large tensors back and fault it in again at every step."""
        memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}
        return {**os.environ, **memory, "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}


def call(arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
    """Runs `cvls` with its output added to `log`; RuntimeError with the log's end if it fails."""
    with open(log, "a") as file:
        done = subprocess.run(
            [sys.executable, "-m", "modeling_cvls", *arguments], stdout=file, stderr=file, env=environment
        )
    if done.returncode:
        raise RuntimeError(f"cvls {arguments[0]} failed; the end of {log}:\n{log.read_text()[-2000:]}")


def make_dataset(ablation: Ablation) -> str:
    """The folder of the data: the config's data set, or the look-alikes benchmark, made where it is not there yet."""
    if ablation.dataset:
        return ablation.dataset
    folder = Path(ablation.output)
    dataset, raw, log = folder / "dataset", folder / "raw", folder / "dataset.log"
    if not (dataset / "README.md").exists():
        counts = [word for split, count in ablation.scenes.items() for word in (f"--{split}", str(count))]
        shape = ["--size", str(ablation.scene_size), "--frames", str(ablation.scene_frames)]
        print("writing the scenes of the benchmark", flush=True)
        shutil.rmtree(raw, ignore_errors=True)  # of a run that was stopped
        call(["synthesize", "--look-alikes", "--output", str(raw), *counts, *shape], log)
        call(["convert", "a2d_sentences", "--source", str(raw), "--output", str(dataset)], log)
    return str(dataset)


def run(ablation: Ablation, dataset: str, variant: str, seed: int) -> dict:
    """Trains and tests one variant with one seed; returns what is known of the run, from its file if it was done."""
    folder = Path(ablation.output) / "runs" / variant.replace(" ", "_") / f"seed{seed}"
    finished = folder / "run.json"
    if finished.exists():
        return json.loads(finished.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    log, checkpoint = folder / "log.txt", folder / "checkpoint"
    flags = {
        **ablation.flags,
        **ablation.variants[variant],
        "data.dataset": dataset,
        "training.output_dir": str(checkpoint),
        "training.seed": seed,
        "training.resume_from_checkpoint": any(checkpoint.glob("checkpoint-*")),
        "training.disable_tqdm": True,
    }
    about, start = machine(), time.perf_counter()
    words = [
        word
        for name, value in flags.items()
        for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    ]
    call(["train", ablation.train, *words], log, ablation.environment())
    trained = time.perf_counter()
    metrics = {}
    for split in ablation.test_splits:
        output = folder / f"{split}.json"
        arguments = ["--model", str(checkpoint), "--dataset", dataset, "--split", split, "--output", str(output)]
        call(["eval", *arguments], log, ablation.environment())
        metrics[split] = json.loads(output.read_text())
    result = {
        "variant": variant,
        "seed": seed,
        "machine": about,
        "resumed": flags["training.resume_from_checkpoint"],
        "training_seconds": round(trained - start, 1),
        "test_seconds": round(time.perf_counter() - trained, 1),
        "metrics": metrics,
    }
    finished.write_text(json.dumps(result, indent=1))
    return result


def measured(metrics: dict) -> dict[str, float]:
    """The columns of a table from what `cvls eval` wrote; accuracies by kind of sentence, and of none."""
    values = {name: metrics[key] for name, key in METRICS.items()}
    values |= {kind: metrics["per_kind"][kind]["referent_accuracy"] for kind in KINDS if kind in metrics["per_kind"]}
    return values | ({NO_REFERENT: metrics["no_referent_accuracy"]} if "no_referent_accuracy" in metrics else {})


def summary(values: list[float]) -> str:
    """Mean and sample standard deviation, in points."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def tables(ablation: Ablation, runs: list[dict]) -> str:
    """The results in Markdown: for each test split one row per variant, then the differences of the comparisons."""
    text = []

    def head(columns: list[str]) -> list[str]:
        return ["| | " + " | ".join([*columns, "seeds"]) + " |", "| --- |" + " --- |" * (len(columns) + 1)]

    for split in ablation.test_splits:
        found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        for result in runs:
            found[result["variant"]][result["seed"]] = measured(result["metrics"][split])
        columns = list(next(iter(next(iter(found.values())).values())))
        text += [f"### {split}", "", *head(columns)]
        for variant in ablation.variants:
            seeds = found[variant].values()
            if seeds:
                cells = [summary([values[column] for values in seeds]) for column in columns]
                text.append(f"| {variant} | " + " | ".join(cells) + f" | {len(seeds)} |")
        text.append("")
        rows = []
        for better, worse in ablation.comparisons:
            shared = sorted(set(found[better]) & set(found[worse]))
            if shared:
                differences = [
                    summary([found[better][seed][column] - found[worse][seed][column] for seed in shared])
                    for column in columns
                ]
                rows.append(f"| {better} − {worse} | " + " | ".join(differences) + f" | {len(shared)} |")
        if rows:
            text += ["Differences, seed by seed:", "", *head(columns), *rows, ""]
    return "\n".join(text)


def plot(ablation: Ablation, runs: list[dict], path: Path) -> None:
    """Mean IoU and accuracy on the first test split: a point a run, a line at the mean of each variant."""
    variants = [variant for variant in ablation.variants if any(r["variant"] == variant for r in runs)]
    figure = Figure(figsize=(11, 0.45 * len(variants) + 1.4), layout="constrained")  # needs no display
    axes = figure.subplots(1, 2, sharey=True)
    split = ablation.test_splits[0]
    for axis, name in zip(axes, ("mean IoU", "accuracy"), strict=True):
        for row, variant in enumerate(variants):
            values = [100 * measured(r["metrics"][split])[name] for r in runs if r["variant"] == variant]
            axis.plot(values, [row] * len(values), "o", color="#2b6cb0", alpha=0.6, markersize=5)
            axis.plot([statistics.mean(values)] * 2, [row - 0.3, row + 0.3], color="#1a202c", linewidth=2)
        axis.set_xlabel(f"{'referent ' if name == 'accuracy' else ''}{name} on {split}, %")
        axis.set_yticks(range(len(variants)), variants)
        axis.grid(axis="x", color="#e2e8f0")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.set_axisbelow(True)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=130)


def machine() -> dict[str, str | int]:
    """What a run runs on, and the code's commit."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "commit": (commit or "unknown") + (" with changes" if changed else ""),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerator": accelerator,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="configs/ablation_small.yaml or configs/ablation_full.yaml")
    parser.add_argument("--report-only", action="store_true", help="tables and plot of the runs that are done")
    arguments = parser.parse_args()
    try:
        ablation = Ablation.read(arguments.config)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    # seed by seed: where it is stopped, what is done can be compared
    todo = [(variant, seed) for seed in ablation.seeds for variant in ablation.variants]
    todo += [(variant, seed) for variant, seeds in ablation.more_seeds.items() for seed in seeds]
    output = Path(ablation.output)
    if arguments.report_only:
        runs = [json.loads(path.read_text()) for path in sorted(output.glob("runs/*/seed*/run.json"))]
        if not runs:
            parser.error(f"--report-only: no run is done in {output / 'runs'}")
    else:
        output.mkdir(parents=True, exist_ok=True)
        dataset = make_dataset(ablation)
        runs, failures = [], []
        with ThreadPoolExecutor(ablation.jobs) as pool, tqdm(total=len(todo), desc="runs", unit="run") as bar:
            futures = {pool.submit(run, ablation, dataset, *each): each for each in todo}
            for future in as_completed(futures):
                if future.exception():
                    failures.append((futures[future], future.exception()))
                else:
                    runs.append(future.result())
                bar.update()
        for (variant, seed), error in failures:
            print(f"{variant}, seed {seed}: {error}", file=sys.stderr)
        if failures:
            sys.exit(f"{len(failures)} of {len(todo)} runs failed; the same command tries them again")

    runs.sort(key=lambda r: (list(ablation.variants).index(r["variant"]), r["seed"]))
    (output / "results.json").write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    about = runs[-1]["machine"]
    commits = ", ".join(dict.fromkeys(r["machine"]["commit"][:7] + r["machine"]["commit"][40:] for r in runs))
    seconds = statistics.median(r["training_seconds"] for r in runs)
    heading = (
        f"`python benchmarks/ablate.py {arguments.config}`: {len(runs)} runs, {seconds:.0f} s a training (median; "
        f"{ablation.jobs} at a time, {ablation.threads} threads each) on {about['cores']} {about['processor']} cores, "
        f"accelerator: {about['accelerator']}, torch {about['torch']}, commit {commits}. Means ± standard deviations "
        "over the seeds, in points."
    )
    report = heading + "\n\n" + tables(ablation, runs)
    (output / "results.md").write_text(report)
    plot(ablation, runs, output / "results.png")
    print(report)


if __name__ == "__main__":
    main()
