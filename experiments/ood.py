"""Measure how well a bundle's out-of-distribution check tells cells from other pictures.

Runs the bundle on pictures that are no crop of one stained red cell (drawn pictures, spoilt cells, fields of
view, cuts of photographs that installed packages ship), and counts how many of each kind it turns away. The
check has learned from drawn pictures and spoilt cells of another seed, and from no such fields or
photographs. Also counts the cells that it turns away wrongly: out of fold, if there is a cross-validation,
and among the files of --cells. Writes the counts as a table.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import photographs, pretrained
from malaria import bundle, paths, predict, tables
from malaria.bundle import not_cells
from malaria.cells import images, packed, synthetic
from malaria.command import end_with, how_many, options
from malaria.errors import UserError
from malaria.fields import synthetic as fields
from malaria.predict import inputs

# Number of cells that spoilt cells are made from.
_CELLS = 400


def main() -> None:
    parser = options("experiments.ood", __doc__)
    parser.add_argument("--model", type=Path, help="a bundle folder (default: models/pretrained)")
    parser.add_argument("--name", default="crossval", help="name of the cross-validation (crossval)")
    parser.add_argument("--cells", type=Path, nargs="*", default=[], help="files, folders, zips of cells")
    parser.add_argument("--count", type=how_many, default=24, help="pictures of each kind (24)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the pictures (1)")
    parser.add_argument("--out", type=Path, default=Path("reports/ood.csv"), help="file for the table")
    arguments = parser.parse_args()
    model = bundle.load(arguments.model or bundle.default_folder())
    if model.fitted_ood is None:
        raise UserError(
            f"{model.folder} has no out-of-distribution check: export it again, or name another with --model."
        )

    origin, cells = _cells(arguments.seed)
    which = (cells, arguments.count, arguments.seed)
    others = not_cells.all_kinds(*which) | photographs.all_kinds(*which) | _fields(*which[1:])
    rows = [_counted(kind, model.run(of_kind).rejected) for kind, of_kind in others.items()]
    rows += [_counted(kind, rejected, cells=True) for kind, rejected in _out_of_fold(arguments.name).items()]
    rows += [_counted(str(path), _files(model, path), cells=True) for path in arguments.cells]
    table = pd.DataFrame(rows)
    print(f"{model.folder}; spoilt cells are made from {origin}")
    print(table.assign(share=(table.rejected / table.pictures).round(4)).to_string(index=False))
    kinds = table[~table.cells]
    pictures, rejected = kinds.pictures.sum(), kinds.rejected.sum()
    print(f"{rejected:,} of {pictures:,} pictures turned away, {rejected / pictures:.1%}; ", end="")
    print(f"mean of {len(kinds)} kinds {(kinds.rejected / kinds.pictures).mean():.1%}")
    tables.write(table, arguments.out)
    print(f"\nThe table: {arguments.out}")


def _cells(seed: int) -> tuple[str, list[images.Pixels]]:
    """Where cells were found, in words, and some of them: packed cells if there are any, else drawn ones."""
    random = np.random.default_rng(seed)
    if not (paths.PACKED / packed.INDEX).is_file():
        return "drawn cells", [
            synthetic.draw(random, synthetic.stain(random), bool(random.integers(2))) for _ in range(_CELLS)
        ]
    found = packed.load(paths.PACKED).images
    return str(paths.PACKED), list(random.choice(found, min(_CELLS, len(found)), replace=False))


def _fields(count: int, seed: int) -> dict[str, list[images.Pixels]]:
    """Drawn fields of view by kind, `count` of each: thin films, thick films, empty and blurred ones."""
    kinds = (fields.THIN, fields.THICK, fields.EMPTY, fields.BLURRED)
    return {
        f"fields: {kind}": [
            fields.draw(not_cells.random_of(seed, kind, number), kind, size=(640, 480), cells=30)[0]
            for number in range(count)
        ]
        for kind in kinds
    }


def _out_of_fold(name: str) -> dict[str, pd.Series]:
    """Why each cell is turned away by the check of its fold (empty: it is not), at the limits of all folds.

    First for all cells, then for each fold; empty without a cross-validation.
    """
    if not (paths.CROSSVAL / f"{name}.csv").is_file():
        return {}
    found = pretrained.out_of_fold(name, packed.load(paths.PACKED))
    foreign, judged = found.foreign, found.cells
    print(f"{sum(foreign)} of {len(foreign)} patients are foreign to the fold that never saw them")
    of_folds = {f"fold {number}": rows.rejected for number, rows in judged.groupby("fold")}
    return {"out of fold": judged.rejected, **of_folds}


def _files(model: bundle.Bundle, path: Path) -> list[str | None]:
    found = predict.predict(model, inputs.find([str(path)]))
    rows = [row for row in found if row.status != predict.UNREADABLE]
    if not rows:
        raise UserError(f"{path} holds no readable image: name files, folders or zips of cells.")
    return [row.reason if row.status == predict.REJECTED else None for row in rows]


def _counted(kind: str, rejected: Collection[str | None], *, cells: bool = False) -> dict[str, object]:
    """A row of the table: a kind, its pictures, how many are turned away, and the most frequent reason."""
    reasons = Counter(filter(None, rejected))
    return {
        "cells": cells,
        "kind": kind,
        "pictures": len(rejected),
        "rejected": reasons.total(),
        "reason": max(reasons, key=reasons.__getitem__, default=""),
    }


if __name__ == "__main__":
    end_with(main)
