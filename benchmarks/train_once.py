"""Train once, evaluate once, and write what a benchmark wants to know as JSON. A process of its own: its peak memory is
then that of one training and of nothing else.

    python benchmarks/train_once.py '{"data": ..., "output": ..., "result": ...}'
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(order: dict[str, Any]) -> None:
    """Do what ``order`` says: recipe, data, output, minutes, steps, seed, overrides, split (null: no evaluation),
    max_images, result (the file to write)."""
    from measuring import describe_machine, peak_memory_bytes

    import voxfield

    machine = describe_machine()  # before: the load average must not be this run's own
    run = voxfield.train(
        order["recipe"],
        order["data"],
        output=order["output"],
        minutes=order["minutes"],
        steps=order["steps"],
        seed=order["seed"],
        overrides=order["overrides"],
    )
    result: dict[str, Any] = {"machine": machine, "outcome": run.outcome, "peak_memory_bytes": peak_memory_bytes()}
    if order["split"] is not None:
        result["metrics"] = run.evaluate(split=order["split"], max_images=order["max_images"])
    Path(order["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
