"""Measures with a module of evaluate in two processes, and prints a JSON list of what each gives.

python measure_in_two.py MODULE CACHE

Standard input is a JSON list of the pairs [prediction, reference] of the first process and of the second.
"""

import json
import sys
from pathlib import Path

import evaluate

from children import start, wait


def measure(module: str, cache: str, process: int, pairs: list, output: Path) -> None:
    metric = evaluate.load(module, cache_dir=cache, num_process=2, process_id=process, experiment_id="two")
    for prediction, reference in pairs:
        metric.add(prediction=prediction, reference=reference)
    output.write_text(json.dumps(metric.compute()))


def main(module: str, cache: str) -> None:
    shares = json.load(sys.stdin)
    outputs = [Path(cache) / f"{process}.json" for process in range(2)]
    children = [start(measure, module, cache, process, shares[process], outputs[process]) for process in range(2)]
    assert [wait(child) for child in children] == [0, 0]
    print(json.dumps([json.loads(output.read_text()) for output in outputs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
