"""Judge cells with a model bundle: `python -m malaria predict` and `python -m malaria evaluate`."""

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from malaria import __version__, bundle, files, predict
from malaria.command import end_with
from malaria.errors import UserError

NOTE = "Research use only: nothing here is a diagnosis."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m malaria", description=__doc__, epilog=NOTE)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("predict", help="a row of CSV for each image", epilog=NOTE)
    one.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="an image, a folder or a zip of them"
    )
    one.add_argument("--model", type=Path, default=None, help="a bundle folder (default: the newest here)")
    one.add_argument("--out", type=Path, default=None, help="where to write the CSV (default: the terminal)")
    one.set_defaults(run=_predict)

    two = commands.add_parser("evaluate", help="score a bundle on a labelled folder", epilog=NOTE)
    two.add_argument("folder", type=Path, help="a folder or archive with one sub-folder per class")
    two.add_argument("--model", type=Path, default=None, help="a bundle folder (default: the newest here)")
    two.add_argument("--json", action="store_true", help="print every figure as JSON")
    two.set_defaults(run=_evaluate)

    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


def _predict(arguments: argparse.Namespace) -> None:
    model = bundle.load(arguments.model or bundle.default_folder())
    bar = tqdm(predict.find(arguments.paths), desc="predicting", unit=" images", disable=None)
    rows = predict.predict(model, bar)
    if arguments.out is None:
        predict.write(rows, sys.stdout)
        return
    with files.atomic_path(arguments.out) as part, part.open("w", encoding="utf-8", newline="") as out:
        predict.write(rows, out)
    print(f"{arguments.out} is written. {NOTE}")


def _evaluate(arguments: argparse.Namespace) -> None:
    try:
        from malaria import labelled
    except ModuleNotFoundError as error:
        raise UserError(f"`evaluate` needs {error.name}: pip install '.[pipeline]'.") from None
    model = bundle.load(arguments.model or bundle.default_folder())
    scores = labelled.evaluate(model, arguments.folder)
    print(json.dumps(scores, indent=2) if arguments.json else labelled.as_text(scores))
    if model.record.synthetic:
        print(f"This model was trained on the synthetic sample. {NOTE}", file=sys.stderr)


if __name__ == "__main__":
    end_with(main)
