"""Judge cells with a model bundle: `python -m malaria predict` and `python -m malaria evaluate`."""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from malaria import __version__, bundle, files, predict
from malaria.command import end_with, how_many
from malaria.errors import UserError
from malaria.predict import batch, engine, inputs, stores

NOTE = "Research use only: nothing here is a diagnosis."


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m malaria", description=__doc__, epilog=NOTE)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("predict", help="a row of CSV for each image", epilog=NOTE)
    one.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image, a folder or a zip of them, here or as s3://BUCKET/PREFIX",
    )
    one.add_argument(
        "--model",
        type=Path,
        default=None,
        help="a bundle folder (default: models/pretrained, else models/malaria-cells)",
    )
    one.add_argument("--out", type=Path, default=None, help="where to write the CSV (default: the terminal)")
    one.add_argument(
        "--engine", choices=engine.NAMES, default="none", help="dask: resumable, on many workers (none)"
    )
    one.add_argument("--workers", type=how_many, default=2, help="processes here, with an engine (2)")
    one.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster to use instead")
    one.add_argument("--shard", type=how_many, default=batch.SHARD, help=f"images a task ({batch.SHARD})")
    one.set_defaults(run=_predict)

    two = commands.add_parser("evaluate", help="score a bundle on a labelled folder", epilog=NOTE)
    two.add_argument("folder", type=Path, help="a folder or archive with one sub-folder per class")
    two.add_argument(
        "--model",
        type=Path,
        default=None,
        help="a bundle folder (default: models/pretrained, else models/malaria-cells)",
    )
    two.add_argument("--json", action="store_true", help="print every figure as JSON")
    two.set_defaults(run=_evaluate)

    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be UTF-8; a row gives back the bytes that it has.
        sys.stdout.reconfigure(errors="surrogateescape")
    arguments.run(arguments)
    return 0


def _predict(arguments: argparse.Namespace) -> None:
    if arguments.out is not None and arguments.out.is_dir():
        raise UserError(f"--out is {arguments.out}, a folder: name a file in it.")
    if arguments.engine != "none":
        _predict_in_shards(arguments)
        return
    if arguments.scheduler is not None:
        raise UserError("--scheduler needs --engine dask.")
    model = bundle.load(arguments.model or bundle.default_folder())
    bar = tqdm(inputs.find(arguments.paths), desc="predicting", unit=" images", disable=None)
    remote = any(inputs.is_remote(path) for path in arguments.paths)
    rows = predict.predict(model, bar, stores.READERS if remote else None)
    if arguments.out is None:
        predict.write(rows, sys.stdout)
        return
    with (
        _disk_in_words(arguments.out),
        files.atomic_path(arguments.out) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        predict.write(rows, out)
    print(f"{arguments.out} is written. {NOTE}")


def _predict_in_shards(arguments: argparse.Namespace) -> None:
    if arguments.out is None:
        raise UserError("--engine needs --out FILE.csv: beside it lies what a killed run can go on from.")
    with _disk_in_words(arguments.out):
        done = batch.run(
            arguments.model or bundle.default_folder(),
            arguments.paths,
            arguments.out,
            workers=arguments.workers,
            scheduler=arguments.scheduler,
            size=arguments.shard,
        )
    resumed = f", {done.resumed:,} of them from a run before" if done.resumed else ""
    print(f"{arguments.out} is written: {done.rows:,} rows in {done.shards:,} shards{resumed}. {NOTE}")


@contextmanager
def _disk_in_words(out: Path) -> Iterator[None]:
    """Turns what the disk refuses into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): free some disk, or name another --out."
        ) from None


def _evaluate(arguments: argparse.Namespace) -> None:
    try:
        from malaria.predict import labelled
    except ModuleNotFoundError as error:
        raise UserError(f"`evaluate` needs {error.name}: pip install '.[pipeline]'.") from None
    model = bundle.load(arguments.model or bundle.default_folder())
    scores = labelled.evaluate(model, arguments.folder)
    print(json.dumps(scores, indent=2) if arguments.json else labelled.as_text(scores))
    if model.record.synthetic:
        print(f"This model was trained on the synthetic sample. {NOTE}", file=sys.stderr)


if __name__ == "__main__":
    end_with(main)
