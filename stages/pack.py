"""Resize every accepted cell once, and write all of them as one memory-mappable array."""

from malaria import tables
from malaria.cells import pack
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import CELLS, PACKED, RAW


def main() -> None:
    size = load_params().pack.size
    count = pack.write(RAW, tables.read(CELLS, tables.CELLS), size, PACKED)
    print(f"Packed {count:,} cells of {size} x {size} px.")


if __name__ == "__main__":
    run_stage(main)
