"""Compare the cells that lie here with those of a base revision: what came and went, and how they look.

Writes reports/ci/drift.md. For each quantity of size and colour it gives the Kolmogorov-Smirnov distance of
the two distributions, from 0 (alike) to 1; beyond gate.max_drift the quantity has drifted. Drift fails
nothing: it informs the reader of the pull request.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ci import outputs
from ci.github import event
from malaria import files, paths, programs, tables
from malaria.bundle import ood
from malaria.cells import packed
from malaria.cells.prepared import Prepared
from malaria.command import end_with
from malaria.errors import UserError
from malaria.labels import LABELS, PARASITIZED
from malaria.params import load_params

# What `malaria.bundle.ood.quantities` measures of colour and stain, and in words.
COLOURS = {
    "own_stain": "stain, log optical density",
    "own_green": "green's optical density beyond its share",
    "own_red": "red's optical density minus blue's",
    "contrast": "contrast, log grey levels",
}


@dataclass(frozen=True)
class Quantity:
    """A quantity's median in both and the Kolmogorov-Smirnov distance of its two distributions, in [0, 1]."""

    words: str
    before: float
    now: float
    distance: float


@dataclass(frozen=True)
class Drift:
    """Cells are told apart by their files' hashes; `share_before` and `share_now` are of parasitised ones."""

    cells_before: int
    cells_now: int
    gained: dict[str, int]
    lost: dict[str, int]
    share_before: float
    share_now: float
    quantities: tuple[Quantity, ...]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ci.drift", description=__doc__)
    parser.add_argument("--base", default="HEAD", help="the revision whose data is in use (HEAD)")
    base = parser.parse_args().base
    limit = load_params().gate.max_drift
    with tempfile.TemporaryDirectory() as temporary:
        before = Path(temporary)
        try:
            for path in (paths.CELLS, paths.PACKED):
                (before / path).parent.mkdir(exist_ok=True)
                programs.dvc("get", "--quiet", "--rev", base, "--out", str(before / path), ".", str(path))
        except UserError as missing:
            # A retraining does not wait for it.
            text = f"### Data against {base}\n\nNot compared: {missing} (docs/ci.md: stores keep results)"
        else:
            text = markdown(drift(before, Path()), base, limit)
    files.write_text(outputs.DRIFT, text)
    event.summarise(text)
    print(text)
    return 0


def drift(before: Path, now: Path) -> Drift:
    """Compare the audited and packed cells below two folders."""
    from scipy.stats import ks_2samp

    (old, old_cells), (new, new_cells) = _cells(before), _cells(now)
    if old_cells[0].pixels.shape != new_cells[0].pixels.shape:
        raise UserError("The two revisions pack cells at different sizes: compare two of the same pack.size.")
    gained, lost = (
        {label: int((one.label[~one.sha256.isin(other.sha256)] == label).sum()) for label in reversed(LABELS)}
        for one, other in ((new, old), (old, new))
    )
    was, looks = _look(old, old_cells), _look(new, new_cells)
    return Drift(
        cells_before=len(old),
        cells_now=len(new),
        gained=gained,
        lost=lost,
        share_before=float((old.label == PARASITIZED).mean()),
        share_now=float((new.label == PARASITIZED).mean()),
        quantities=tuple(
            Quantity(
                words,
                float(np.median(was[words])),
                float(np.median(looks[words])),
                float(ks_2samp(was[words], looks[words]).statistic),
            )
            for words in looks
        ),
    )


def markdown(found: Drift, base: str, limit: float) -> str:
    """The comparison as Markdown."""
    drifted = [quantity.words for quantity in found.quantities if quantity.distance > limit]
    rows = [
        f"| {quantity.words} | {quantity.before:.2f} | {quantity.now:.2f} | {quantity.distance:.3f} "
        f"{'**drifted**' if quantity.distance > limit else ''} |"
        for quantity in found.quantities
    ]
    counts = [f"| {label} | {found.gained[label]:,} | {found.lost[label]:,} |" for label in reversed(LABELS)]
    headline = f"Drifted: {', '.join(drifted)}." if drifted else "No quantity has drifted."
    counted = f"{found.cells_before:,} cells before, {found.cells_now:,} now"
    shares = f"parasitised {found.share_before:.1%} before, {found.share_now:.1%} now"
    lines = [
        *(f"### Data against {base}", "", f"{headline} {counted}; {shares}.", ""),
        *("| class | gained | lost |", "|---|--:|--:|", *counts, ""),
        *("| quantity | median before | now | distance |", "|---|--:|--:|--:|", *rows, ""),
        f"Distances are Kolmogorov-Smirnov statistics; beyond {limit:g} a quantity has drifted.",
    ]
    return "\n".join(lines)


def _cells(folder: Path) -> tuple[pd.DataFrame, list[Prepared]]:
    """The packed cells' rows of tables.CELLS, and the cells themselves in that order."""
    cells = packed.load(folder / paths.PACKED)
    table = tables.read(folder / paths.CELLS, tables.CELLS).set_index("path", drop=False)
    return table.loc[cells.index.path], cells.prepared()


def _look(table: pd.DataFrame, cells: list[Prepared]) -> dict[str, npt.NDArray[np.float64]]:
    measured = ood.quantities(cells)
    names = list(ood.REASONS)
    return {
        "longer side, px": table[["width", "height"]].max(axis=1).to_numpy(np.float64),
        **{words: measured[:, names.index(name)].astype(np.float64) for name, words in COLOURS.items()},
    }


if __name__ == "__main__":
    end_with(main)
