"""Compare the cells of this work tree with those of a base revision: cells gained and lost, size and colour.

Writes reports/ci/drift.md. For each quantity of size and colour it gives the Kolmogorov-Smirnov distance of
the two distributions, from 0 (alike) to 1. A quantity with a distance over gate.max_drift has drifted. Drift
fails no check: it informs the reader of the pull request.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ci import comparison, outputs, revisions
from ci.github import event
from malaria import files, paths, programs, tables
from malaria.bundle import ood
from malaria.cells import packed
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from malaria.labels import PARASITIZED
from malaria.params import load_params

# The quantities of `malaria.bundle.ood.quantities` that describe colour and stain, and their meaning.
COLOURS = {
    "own_stain": "stain, log optical density",
    "own_green": "green's optical density beyond its share",
    "own_red": "red's optical density minus blue's",
    "contrast": "contrast, log grey levels",
}


@dataclass(frozen=True)
class Drift:
    """How the cells changed; they are identified by the SHA-256 of their files.

    cells: counts before and now. share: the parasitised share before and now, in [0, 1]. classes: cells
    `gained` and `lost` by label. quantities: each one's median `before` and `now`, and the Kolmogorov-Smirnov
    `distance` of its two distributions, in [0, 1].
    """

    cells: tuple[int, int]
    share: tuple[float, float]
    classes: pd.DataFrame
    quantities: pd.DataFrame


def main() -> None:
    parser = new_parser("ci.drift", __doc__)
    parser.add_argument("--base", default="HEAD", help="the revision whose data is in use (HEAD)")
    base = parser.parse_args().base
    limit = load_params().gate.max_drift
    revisions.resolve(base)
    with tempfile.TemporaryDirectory() as temporary:
        before = Path(temporary)
        try:
            for path in (paths.CELLS, paths.PACKED):
                (before / path).parent.mkdir(exist_ok=True)
                programs.dvc("get", "--quiet", "--rev", base, "--out", str(before / path), ".", str(path))
        except UserError as error:
            # A retraining goes on without this comparison.
            text = f"### Data against {base}\n\nNot compared: {error} (docs/ci.md: stores keep results)"
        else:
            text = markdown(compare(before, Path()), base, limit)
    files.write_text(outputs.DRIFT, text)
    event.summarise(text)
    print(text)


def compare(before: Path, now: Path) -> Drift:
    """Compare the audited and packed cells below two folders."""
    from scipy.stats import ks_2samp

    packs = [packed.load(folder / paths.PACKED) for folder in (before, now)]
    if packs[0].size != packs[1].size:
        raise UserError("The two revisions pack cells at different sizes: compare two of the same pack.size.")
    (old, old_values), (new, values) = map(_measure, (before, now), packs)
    distances = [float(ks_2samp(old_values[name], values[name]).statistic) for name in values]
    quantities = pd.DataFrame({"before": old_values.median(), "now": values.median(), "distance": distances})
    return Drift(
        cells=(len(old), len(new)),
        share=(float((old.label == PARASITIZED).mean()), float((new.label == PARASITIZED).mean())),
        classes=comparison.by_class(old, new)[["gained", "lost"]],
        quantities=quantities,
    )


def markdown(drift: Drift, base: str, limit: float) -> str:
    """The comparison as Markdown."""
    drifted = drift.quantities.distance > limit
    names = ", ".join(drift.quantities.index[drifted])
    headline = f"Drifted: {names}." if names else "No quantity has drifted."
    table = drift.quantities.assign(drifted=drifted.map({True: "**drifted**", False: ""}))
    (before, now), (share_before, share_now) = drift.cells, drift.share
    parts = [
        f"### Data against {base}",
        f"{headline} {before:,} cells before, {now:,} now; parasitised {share_before:.1%} before, "
        f"{share_now:.1%} now.",
        drift.classes.to_markdown(intfmt=","),
        table.rename_axis("median").to_markdown(floatfmt=("", ".2f", ".2f", ".3f", "")),
        f"Distances are Kolmogorov-Smirnov statistics; beyond {limit:g} a quantity has drifted.",
    ]
    return "\n\n".join(parts)


def _measure(folder: Path, cells: packed.Packed) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The packed cells' rows of tables.CELLS, and their quantities in columns named in words."""
    audited = tables.read(folder / paths.CELLS, tables.CELLS).set_index("path", drop=False)
    rows = audited.loc[cells.index.path]
    quantities = pd.DataFrame(ood.quantities(cells.prepared()), columns=list(ood.REASONS))
    quantities = quantities[list(COLOURS)].rename(columns=COLOURS)
    quantities.insert(0, "longer side, px", rows[["width", "height"]].max(axis=1).to_numpy(np.float64))
    return rows, quantities


if __name__ == "__main__":
    run_and_exit(main)
