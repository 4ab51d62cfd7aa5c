"""Prepare other laboratories' cells, on which the network is trained in addition to the train cells."""

import tempfile
from pathlib import Path

import pandas as pd

from malaria import tables
from malaria.cells import pack
from malaria.command import run_stage
from malaria.fetch import laboratories
from malaria.params import load_params
from malaria.paths import LABORATORIES


def main() -> None:
    params = load_params()
    given = laboratories.to_train_on(params.laboratories)
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        found = [pd.DataFrame(columns=list(tables.CELLS)).astype(tables.CELLS)]
        for name, path in given.items():
            placed, left_out = laboratories.place(path, raw / name, params)
            found.append(placed)
            for entry in left_out:
                print(f"{name}: left out: {entry}")
        cells = pd.concat(found)
        count = pack.write(raw, cells, params.pack.size, params.pack.colour, LABORATORIES)
    print(f"{count:,} cells of {len(given)} other laboratories: {', '.join(given) or 'none'}")


if __name__ == "__main__":
    run_stage(main)
