"""What a smaller precision costs: exported networks beside the trained ones, out of fold.

Takes each fold's trained network of a cross-validation, exports it at every precision, and compares the
decisions on the fold's test cells, and AUC, with the trained network's own.
"""

import argparse
import io
import tempfile
from pathlib import Path

import dvc.api
import numpy as np
import pandas as pd

from malaria import assembly, bundle, export, labels, network, packed, paths, tables
from malaria.command import end_with
from malaria.errors import UserError
from malaria.params import load_params

PRECISIONS = ("float32", "float16", "int8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.precision", description=__doc__)
    parser.add_argument("--name", default="crossval", help="of the cross-validation (crossval)")
    arguments = parser.parse_args()
    file = paths.CROSSVAL / f"{arguments.name}.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing: run `make crossval` first, or name another with --name.")
    cells = packed.load(paths.PACKED)
    rows = []
    print(f"{'fold':>6}{'precision':>11}{'bytes':>10}{'cells':>8}{'decided otherwise':>19}{'AUC':>10}{'largest':>9}")
    for fold in sorted(tables.read(file, tables.OUT_OF_FOLD).fold.unique()):
        for row in of_fold(f"{arguments.name}-{fold}", cells):
            rows.append(row)
            print(f"{fold:>6}{_line(row)}", flush=True)
    for precision in PRECISIONS:
        of = [row for row in rows if row.precision == precision]
        print(f"{'all':>6}{_line(pooled(of))}")
    return 0


