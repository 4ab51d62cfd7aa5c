"""Whether a bundle says the same of cells whatever size their crops have.

Judges the crops of one folder or zip, and the crops of the same names in another, a copy at another size;
prints how many have the same verdict (category, or rejected), and those that have not.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from malaria import bundle, predict
from malaria.command import end_with
from malaria.errors import UserError
from malaria.predict import inputs


@dataclass(frozen=True)
class Pair:
    """The answers for one cell's crop and for its copy at another size."""

    name: str
    one: predict.Row
    other: predict.Row

    @property
    def same(self) -> bool:
        """Whether both have the same category, or both have none."""
        return self.one.category == self.other.category


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.crop_size", description=__doc__)
    parser.add_argument("one", help="a folder or zip of crops")
    parser.add_argument("other", help="a folder or zip that has the same cells at another size, and others")
    parser.add_argument("--model", type=Path, help="a bundle folder (default: the one that comes along)")
    arguments = parser.parse_args()
    pairs = judge(bundle.load(arguments.model or bundle.default_folder()), arguments.one, arguments.other)
    same = sum(pair.same for pair in pairs)
    print(f"{same:,} of {len(pairs):,} cells have the same verdict at both sizes ({same / len(pairs):.1%})")
    neither = sum(pair.one.status == pair.other.status == predict.REJECTED for pair in pairs)
    print(f"{neither:,} of these are turned away at both")
    for pair in pairs:
        if not pair.same:
            print(f"  {pair.name}: {_said(pair.one)}, and {_said(pair.other)}")


def judge(model: bundle.Bundle, one: str, other: str) -> list[Pair]:
    """What a bundle says of the crops in `one`, and of those in `other` that have the same file names.

    Raises:
        UserError: a path does not exist, no name is in both, or one is there twice.
    """
    first, second = _by_name(one), _by_name(other)
    names = sorted(set(first) & set(second))
    if not names:
        raise UserError(f"{one} and {other} have no file name in common: name two copies of the same cells.")
    rows = [list(predict.predict(model, (of[name] for name in names))) for of in (first, second)]
    return [Pair(*trio) for trio in zip(names, *rows, strict=True)]


def _by_name(path: str) -> dict[str, predict.Item]:
    items = {item.path: item for item in inputs.find([path])}
    names = Counter(Path(path).name for path in items)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{path} has {twice[0]} more than once: cells are told apart by their file names.")
    return {Path(path).name: item for path, item in items.items()}


def _said(row: predict.Row) -> str:
    if row.p_parasitized is None:
        return f"{row.status} ({row.reason})"
    return f"P {row.p_parasitized:.3f}"


if __name__ == "__main__":
    end_with(main)
