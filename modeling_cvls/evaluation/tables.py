"""Results as flat numbers and as a table."""

from typing import Any

PARTS = ("per_kind", "per_group")


def flatten_results(results: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """{"mean_iou": a, "per_kind": {"spatial": {"mean_iou": b}}} -> {"mean_iou": a, "spatial/mean_iou": b}."""
    flat = {f"{prefix}{name}": value for name, value in results.items() if name not in PARTS}
    for part, values in [item for name in PARTS for item in results.get(name, {}).items()]:
        flat.update({f"{prefix}{part}/{name}": value for name, value in values.items()})
    return flat


def results_table(results: dict[str, Any]) -> str:
    """The results as a table in Markdown: one row over all, and one row per kind of sentence or per annotator."""
    if "J&F" in results:
        columns = {"J&F": "J&F", "J": "J", "F": "F", "sentences": "num_objects", "frames": "num_frames"}
    else:
        columns = {
            **{f"P@0.{i}": f"precision@0.{i}" for i in range(5, 10)},
            "mAP": "mAP",
            "overall IoU": "overall_iou",
            "mean IoU": "mean_iou",
            "referent accuracy": "referent_accuracy",
            "no referent: empty": "no_referent_accuracy",
            "pairs": "num_pairs",
        }
    lines = ["| sentences | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    parts = results.get("per_kind") or results.get("per_group") or {}
    for part, values in {"all": results, **parts}.items():
        cells = []
        for name in columns.values():
            value = values.get(name)
            cells.append("-" if value is None else f"{value:.0f}" if name.startswith("num_") else f"{value:.3f}")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
