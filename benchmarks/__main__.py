"""The benchmarks: the name of one measures it, ``table`` writes what follows from stored results, ``check`` judges
them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import machine, readme, registry, report, run
from .benchmark import Benchmark, Cell


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in registry.NAMES:
        _measure(commands.add_parser(name, help=f"measure {name}"), registry.find(name))
    table = commands.add_parser("table", help="render pages and the README's tables from the stored results")
    table.add_argument("--readme", type=Path, default=machine.ROOT / "README.md")
    check = commands.add_parser("check", help="judge stored results by the targets")
    check.add_argument("results", type=Path, nargs="+", help="JSON files of runs")
    return parser.parse_args(arguments)


def _measure(measure: argparse.ArgumentParser, benchmark: Benchmark) -> None:
    def size(text: str) -> Cell:
        try:
            return benchmark.cell(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    form = ("[KIND:]" if benchmark.kinds else "") + "x".join(benchmark.sizes)
    measure.add_argument("--quick", action="store_true", help="a few sizes and rounds, under 2 minutes")
    kinds = f"; KIND is one of {', '.join(benchmark.kinds)}" if benchmark.kinds else ""
    which = measure.add_mutually_exclusive_group()
    which.add_argument("--sizes", type=size, nargs="+", metavar=form, help="these sizes alone" + kinds)
    which.add_argument("--headlines", action="store_true", help="the sizes of the README alone")
    modes = list(benchmark.modes)
    measure.add_argument("--modes", nargs="+", choices=modes, default=modes)
    measure.add_argument("--backends", nargs="+", choices=benchmark.ours, help="of ours; default: all that run here")
    measure.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    measure.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results/<device>)")
    measure.add_argument("--memory", action="store_true", help="measure peak memory also of some sizes alone")
    compiled = "leave torch.compile out; a run with --resume and without this measures its rows again"
    measure.add_argument("--without-compile", action="store_true", help=compiled)
    measure.add_argument("--seconds", type=float, help="begin no further row once this much time has passed")
    add = "put these sizes, each with its date and commit, into the results of an earlier full run of the same settings"
    measure.add_argument("--add", action="store_true", help=add)
    measure.add_argument("--resume", action="store_true", help="keep what an interrupted run like this one measured")
    measure.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    if chosen.command == "check":
        return max([run.verdict(json.loads(path.read_text(encoding="utf-8"))) for path in chosen.results])
    if chosen.command == "table":
        return fill(chosen.readme)
    return run.run(chosen)


def fill(page: Path, results: Path = report.RESULTS) -> int:
    """Renders the pages of all full runs, and their tables in the README; 1 with the reason where there is none or no
    marker."""
    text, tables = page.read_text(encoding="utf-8"), {}
    for name in registry.NAMES:
        for path in results.glob(f"*/{name}.json"):
            report.render(path)
        table = readme.tables(name, results)
        if table:
            tables[name] = table
        else:
            print(f"no full run of {name} under {results}: python -m benchmarks {name}", file=sys.stderr)
    try:
        for name, table in tables.items():
            text = readme.insert(text, name, table)
    except ValueError as error:
        print(f"{page}: {error}", file=sys.stderr)
        return 1
    page.write_text(text, encoding="utf-8")
    return 0 if tables else 1


if __name__ == "__main__":
    sys.exit(main())
