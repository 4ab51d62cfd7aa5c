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
    sets = laboratories.to_train_on(params.laboratories)
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary)
        frames = [pd.DataFrame(columns=list(tables.CELLS)).astype(tables.CELLS)]
        for name, path in sets.items():
            cells, left_out = laboratories.place(path, raw / name, params)
            frames.append(cells)
            for entry in left_out:
                print(f"{name}: left out: {entry}")
        cells = pd.concat(frames)
        count = pack.write(raw, cells, params.pack.size, params.pack.colour, LABORATORIES)
    print(f"{count:,} cells of {len(sets)} other laboratories: {', '.join(sets) or 'none'}")


if __name__ == "__main__":
    run_stage(main)
