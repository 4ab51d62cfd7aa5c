"""Prepare every accepted cell once, and write all of them as one memory-mappable array."""

from malaria import tables
from malaria.cells import pack
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import CELLS, PACKED, RAW


def main() -> None:
    params = load_params().pack
    count = pack.write(RAW, tables.read(CELLS, tables.CELLS), params.size, params.colour, PACKED)
    print(f"Packed {count:,} cells of {params.size} x {params.size} px.")


if __name__ == "__main__":
    run_stage(main)
