"""``cgm info RUN``."""

from __future__ import annotations

import argparse

from ..training.run import RunDirectory


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("cgm info", description="What a run directory holds.")
    parser.add_argument("run", help="a run directory")
    directory = RunDirectory.open(parser.parse_args(arguments).run)
    from ..model import load

    facts = directory.read_json(directory.info_path)
    facts.pop("class_names", None)
    model = load(directory.model_path)
    kept = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    facts |= {"status": model.status() or facts.get("status"), "tensors": f"{kept / 1e6:.1f} MB"}
    facts |= {f"  {name}": value for name, value in model.config.items()}
    for name, value in {"run": str(directory.path), **facts}.items():
        print(f"{name:<22}{value}")
    rows = directory.read_json(directory.metrics_path).get("rows", {})
    if rows:
        from .console import console
        from .scores import table

        console().print(table(rows, "metrics.json"))
    return 0
