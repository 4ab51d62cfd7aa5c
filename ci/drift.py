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
from malaria.command import end_with, options
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
    `gained` and `lost` by label. looks: each quantity's median `before` and `now`, and the Kolmogorov-Smirnov
    `distance` of its two distributions, in [0, 1].
    """

    cells: tuple[int, int]
    share: tuple[float, float]
    classes: pd.DataFrame
    looks: pd.DataFrame


def main() -> None:
    parser = options("ci.drift", __doc__)
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
        except UserError as missing:
            # A retraining goes on without this comparison.
            text = f"### Data against {base}\n\nNot compared: {missing} (docs/ci.md: stores keep results)"
        else:
            text = markdown(drift(before, Path()), base, limit)
    files.write_text(outputs.DRIFT, text)
    event.summarise(text)
    print(text)


def drift(before: Path, now: Path) -> Drift:
    """Compare the audited and packed cells below two folders."""
    from scipy.stats import ks_2samp

    packs = [packed.load(folder / paths.PACKED) for folder in (before, now)]
    if packs[0].size != packs[1].size:
        raise UserError("The two revisions pack cells at different sizes: compare two of the same pack.size.")
    (old, was), (new, looks) = map(_look, (before, now), packs)
    distances = [float(ks_2samp(was[words], looks[words]).statistic) for words in looks]
    return Drift(
        cells=(len(old), len(new)),
        share=(float((old.label == PARASITIZED).mean()), float((new.label == PARASITIZED).mean())),
        classes=comparison.by_class(old, new)[["gained", "lost"]],
        looks=pd.DataFrame({"before": was.median(), "now": looks.median()}).assign(distance=distances),
    )


def markdown(found: Drift, base: str, limit: float) -> str:
    """The comparison as Markdown."""
    drifted = found.looks.distance > limit
    named = ", ".join(found.looks.index[drifted])
    headline = f"Drifted: {named}." if named else "No quantity has drifted."
    looks = found.looks.assign(drifted=drifted.map({True: "**drifted**", False: ""}))
    (before, now), (share_before, share_now) = found.cells, found.share
    parts = [
        f"### Data against {base}",
        f"{headline} {before:,} cells before, {now:,} now; parasitised {share_before:.1%} before, "
        f"{share_now:.1%} now.",
        found.classes.to_markdown(intfmt=","),
        looks.rename_axis("median").to_markdown(floatfmt=("", ".2f", ".2f", ".3f", "")),
        f"Distances are Kolmogorov-Smirnov statistics; beyond {limit:g} a quantity has drifted.",
    ]
    return "\n\n".join(parts)


def _look(folder: Path, cells: packed.Packed) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The packed cells' rows of tables.CELLS, and their quantities in columns named in words."""
    audited = tables.read(folder / paths.CELLS, tables.CELLS).set_index("path", drop=False)
    table = audited.loc[cells.index.path]
    measured = pd.DataFrame(ood.quantities(cells.prepared()), columns=list(ood.REASONS))
    colours = measured[list(COLOURS)].rename(columns=COLOURS)
    colours.insert(0, "longer side, px", table[["width", "height"]].max(axis=1).to_numpy(np.float64))
    return table, colours


if __name__ == "__main__":
    end_with(main)
