"""``cgm list``."""

from __future__ import annotations

import argparse

from .. import registry


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("cgm list", description="The models and data sets there are.")
    parser.add_argument("what", nargs="?", choices=("models", "data"), help="only these")
    what = parser.parse_args(arguments).what
    if what != "data":
        print("models")
        for name, summary in registry.summaries().items():
            print(f"  {name:<30}{summary}")
    if what != "models":
        from ..data import names

        print("data sets\n  " + ", ".join(names()))
        print("  or the path of a .npy, .csv, .tsv or .txt file, or of a folder with MNIST's IDX files")
    return 0
