"""Check whether a bundle gives cells the same verdict when their crops have another size.

Runs the bundle on the crops of one folder or zip, and on crops with the same file names in another, a copy at
another size. Prints how many have the same verdict (category, or rejected), and lists the others.
"""

from collections import Counter
from pathlib import Path

import pandas as pd

from malaria import bundle, predict
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from malaria.predict import inputs


def main() -> None:
    parser = new_parser("experiments.crop_size", __doc__)
    parser.add_argument("one", help="a folder or zip of crops")
    parser.add_argument("other", help="a folder or zip with the same cells at another size; it may have more")
    parser.add_argument("--model", type=Path, help="a bundle folder (default: models/pretrained)")
    arguments = parser.parse_args()
    pairs = judge(bundle.load(arguments.model), arguments.one, arguments.other)
    same = f"{pairs.same.sum():,} of {len(pairs):,} cells"
    print(f"{same} have the same verdict at both sizes ({pairs.same.mean():.1%})")
    rejected_at_both = (pairs.status == predict.REJECTED) & (pairs.status_other == predict.REJECTED)
    print(f"{rejected_at_both.sum():,} of these are turned away at both")
    columns = ["status", "reason", "p_parasitized"]
    columns += [f"{name}_other" for name in columns]
    if not pairs.same.all():
        print(pairs.loc[~pairs.same, columns].to_string(float_format="{:.3f}".format, na_rep=""))


def judge(model: bundle.Bundle, one: str, other: str) -> pd.DataFrame:
    """Run a bundle on the crops in `one`, and on those in `other` that have the same file names.

    Returns:
        A row for each file name: the columns of `predict.Row` for `one`, the same with the ending `_other`,
        and `same`: whether both crops have the same category, or both have none.

    Raises:
        UserError: a path does not exist, no name is in both, or a name is in one of them twice.
    """
    crops, other_crops = _by_name(one), _by_name(other)
    names = sorted(set(crops) & set(other_crops))
    if not names:
        raise UserError(f"{one} and {other} have no file name in common: name two copies of the same cells.")
    rows, other_rows = (
        pd.DataFrame(list(predict.predict(model, (items[name] for name in names))), index=names)
        for items in (crops, other_crops)
    )
    same = rows.category.fillna("") == other_rows.category.fillna("")
    return rows.join(other_rows.add_suffix("_other")).assign(same=same)


def _by_name(path: str) -> dict[str, predict.Item]:
    items = {item.path: item for item in inputs.find([path])}
    names = Counter(Path(path).name for path in items)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise UserError(f"{path} has {repeated[0]} more than once: cells are told apart by their file names.")
    return {Path(path).name: item for path, item in items.items()}


if __name__ == "__main__":
    run_and_exit(main)
