"""The benchmarks: ``sliced_ot`` measures, ``table`` fills the README, ``check`` judges stored results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import machine, report, run, sliced_ot


def size(text: str) -> dict[str, int]:
    """``10000x64x500`` as a cell."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"a size is n x d x directions, as in 10000x64x500: got {text!r}")
    return dict(zip(("n", "d", "n_projections"), map(int, parts), strict=True))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("sliced_ot", help="measure sliced optimal transport")
    measure.add_argument("--quick", action="store_true", help="a few sizes and rounds, under 2 minutes")
    measure.add_argument("--sizes", type=size, nargs="+", metavar="NxDxL", help="these sizes alone")
    measure.add_argument("--modes", nargs="+", choices=sliced_ot.MODES, default=list(sliced_ot.MODES))
    measure.add_argument(
        "--backends", nargs="+", choices=sliced_ot.OURS, help="default: the compiled ones on the device"
    )
    measure.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    measure.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results/<device>)")
    measure.add_argument("--memory", action="store_true", help="measure peak memory also when --sizes is given")
    measure.add_argument("--seconds", type=float, help="begin no further row once this much time has passed")
    measure.add_argument(
        "--resume", action="store_true", help="keep the rows of an interrupted run with these settings"
    )
    measure.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    table = commands.add_parser("table", help="render the README's table from the stored results")
    table.add_argument("--readme", type=Path, default=machine.ROOT / "README.md")
    check = commands.add_parser("check", help="judge stored results by the targets")
    check.add_argument("results", type=Path, help="a JSON file of a run")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    if chosen.command == "check":
        return run.verdict(json.loads(chosen.results.read_text(encoding="utf-8")))
    if chosen.command == "table":
        return fill(chosen.readme)
    return run.run(chosen)


def fill(readme: Path) -> int:
    """Puts the table into the README; 1 with the reason where there is no full run or no markers."""
    table = report.readme_tables("sliced_ot")
    if not table:
        print(f"no full run of sliced_ot under {report.RESULTS}: python -m benchmarks sliced_ot", file=sys.stderr)
        return 1
    try:
        text = report.insert(readme.read_text(encoding="utf-8"), "sliced_ot", table)
    except ValueError as error:
        print(f"{readme}: {error}", file=sys.stderr)
        return 1
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
