"""Resize every accepted cell once, and write all of them as one memory-mappable array."""

from malaria.command import run_stage


def main() -> None:
    # Here, since worker processes import this module too, and need none of it.
    from malaria import tables
    from malaria.cells import packed
    from malaria.params import load_params
    from malaria.paths import CELLS, PACKED, RAW

    params = load_params().pack
    cells = tables.read(CELLS, tables.CELLS)
    packed.write(RAW, cells, params.size, PACKED)
    written = packed.load(PACKED)
    print(f"Packed {len(written.index):,} cells of {written.size} x {written.size} px.")


if __name__ == "__main__":
    run_stage(main)
