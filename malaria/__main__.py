"""Judge cells with a model bundle."""

import argparse
import importlib.util
import io
import json
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import shtab
from tqdm import tqdm

from malaria import RESEARCH, __version__, bundle, labels, predict
from malaria.bundle.ood import FOREIGN, Looks
from malaria.command import fraction, positive, require, run_and_exit
from malaria.errors import UserError
from malaria.predict import batch, engine, inputs, stores
from malaria.predict.rows import disk_errors, save

# The package that an installation makes of app/ (pyproject.toml); a checkout has no such package.
_APP = "malaria.app"


def main() -> None:
    parser = argparse.ArgumentParser(prog="malaria", description=__doc__, epilog=RESEARCH)
    parser.add_argument("--version", action="version", version=__version__)
    shtab.add_argument_to(parser, "--print-completion", help="print a completion script for your shell")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sub = commands.add_parser(
        "predict", **_texts("write a CSV row per image", "predict cell.png folder/ --out predictions.csv")
    )
    sub.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image, a folder or a zip of them, here or as s3://BUCKET/PREFIX",
    )
    _add_shared(sub)
    sub.add_argument(
        "--operating-point",
        type=float,
        metavar="SPECIFICITY",
        help="use the model's threshold for this specificity, for example 0.97 (default: threshold 0.5)",
    )
    sub.add_argument(
        "--max-unreadable",
        type=fraction,
        default=0.1,
        metavar="SHARE",
        help="share of images; if more are unreadable, the exit status is 1 (%(default)s)",
    )
    sub.add_argument(
        "--engine", choices=engine.NAMES, default="none", help="dask: resumable, on many workers (none)"
    )
    sub.add_argument("--workers", type=positive, default=2, help="worker processes here, with an engine (2)")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="use this Dask cluster instead")
    sub.add_argument("--shard", type=positive, default=batch.SIZE, help="images in a shard (%(default)s)")
    sub.set_defaults(run=_predict)

    sub = commands.add_parser(
        "evaluate", **_texts("evaluate a bundle on a labelled folder", "evaluate labelled-folder/ --json")
    )
    sub.add_argument("folder", type=Path, help="a folder or archive with one sub-folder for each class")
    _add_shared(sub)
    sub.add_argument(
        "--classes",
        type=_class_label,
        action="extend",
        nargs="+",
        metavar="NAME=LABEL",
        help="your class folders, for example infected=Parasitized clean=Uninfected",
    )
    sub.add_argument("--json", action="store_true", help="print every figure as JSON")
    sub.set_defaults(run=_evaluate)

    if importlib.util.find_spec(_APP):
        app = importlib.import_module(f"{_APP}.__main__")
        texts = _texts("serve a bundle as a web page on this machine", "app --port 8000")
        commands.add_parser("app", parents=[app.parser(add_help=False)], **texts).set_defaults(run=app.serve)

    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As in a file of --out. A file name need not be UTF-8; a row shows its bytes unchanged.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    arguments.run(arguments)


def command() -> None:
    """Run the command `malaria`, as it is installed."""
    run_and_exit(main)


def _texts(summary: str, example: str) -> dict[str, Any]:
    """The help texts of a subcommand, as arguments of `add_parser`."""
    return {
        "help": summary,
        "description": f"{summary[0].upper()}{summary[1:]}.",
        "epilog": f"example:\n  malaria {example}\n\n{RESEARCH}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="a bundle folder (default: the pretrained one)")
    parser.add_argument("--out", type=stores.destination, help="CSV file to write; may be s3://")


def _predict(arguments: argparse.Namespace) -> None:
    out: str | None = arguments.out
    if arguments.engine == "none" and arguments.scheduler is not None:
        raise UserError("--scheduler needs --engine dask.")
    if arguments.engine != "none" and out is None:
        raise UserError("--engine needs --out FILE.csv: a killed run goes on from the files beside it.")
    model = bundle.load(arguments.model)
    threshold = _threshold(model.record, arguments.operating_point)
    looks = Looks()
    with nullcontext() if out is None else disk_errors(out):
        counts = _judge(arguments, model, threshold, looks)
    if model.foreign(looks):
        print(FOREIGN, file=sys.stderr)
    _report(arguments, counts, model, threshold)


def _threshold(record: bundle.Record, specificity: float | None) -> float:
    if specificity is None:
        return 0.5
    thresholds = {point.specificity: point.threshold for point in record.operating_points}
    if specificity not in thresholds:
        available = ", ".join(f"{point:g}" for point in thresholds) or "none"
        raise UserError(f"--operating-point is {specificity:g}, but the model has: {available}.")
    return thresholds[specificity]


def _judge(
    arguments: argparse.Namespace, model: bundle.Bundle, threshold: float, looks: Looks
) -> Counter[str]:
    """Judge the images, write the rows, and count them by status and label."""
    if arguments.engine != "none":
        run = batch.run(
            model.folder,
            arguments.paths,
            arguments.out,
            workers=arguments.workers,
            scheduler=arguments.scheduler,
            size=arguments.shard,
            threshold=threshold,
            looks=looks,
        )
        if run.resumed:
            print(f"Went on with {run.resumed:,} of {run.partitions:,} partitions done.", file=sys.stderr)
        return run.counts
    out = Path(arguments.out) if arguments.out else None
    bar = tqdm(inputs.find(arguments.paths, out), desc="predicting", unit=" images", disable=None)
    remote = any(stores.is_remote(path) for path in arguments.paths)
    rows = predict.predict(model, bar, stores.READERS if remote else None, threshold, looks=looks)
    return predict.write(rows, sys.stdout) if arguments.out is None else save(rows, arguments.out)


def _report(
    arguments: argparse.Namespace, counts: Counter[str], model: bundle.Bundle, threshold: float
) -> None:
    """Report the counts and the model on stderr.

    Raises:
        UserError: no image was judged, or too many were unreadable.
    """
    judged, rejected, unreadable = (
        counts[status] for status in (predict.PREDICTED, predict.REJECTED, predict.UNREADABLE)
    )
    images = judged + rejected + unreadable
    point = f"from P {threshold:g}"
    if arguments.operating_point is not None:
        point += f", the operating point of {arguments.operating_point:g} specificity"
    sample = "the synthetic sample: its answers on real cells mean nothing"
    lines = (
        f"{judged:,} of {images:,} images judged, {counts[labels.PARASITIZED]:,} of them called parasitised "
        f"({point}); {rejected:,} turned away; {unreadable:,} unreadable.",
        f"The model is {model.folder}, trained on {sample if model.record.synthetic else 'real cells'}.",
        f"{arguments.out} is written. {RESEARCH}" if arguments.out else RESEARCH,
    )
    print(*lines, sep="\n", file=sys.stderr)
    if not images:
        raise UserError(f"There is no image in {', '.join(arguments.paths)}: name images, folders or zips.")
    if not judged:
        raise UserError(f"None of {images:,} images was judged: see the reasons in the rows.")
    if unreadable / images > arguments.max_unreadable:
        raise UserError(
            f"{unreadable:,} of {images:,} images are unreadable, a larger share than --max-unreadable "
            f"{arguments.max_unreadable:g}: see the reasons in the rows."
        )


def _class_label(text: str) -> tuple[str, str]:
    name, _, label = text.rpartition("=")
    if not name or label not in labels.LABELS:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a folder's name, =, and {' or '.join(labels.LABELS)}; FOLDER goes first"
        )
    return name, label


def _evaluate(arguments: argparse.Namespace) -> None:
    for module in ("pandas", "scipy", "sklearn", "yaml"):
        require(module, "evaluate", "evaluate")
    from malaria.predict import labelled

    classes = dict[str, str]()
    for name, label in arguments.classes or ():
        if (previous := classes.setdefault(name, label)) != label:
            raise UserError(f"--classes names {name} twice, as {previous} and {label}: name it once.")
    model = bundle.load(arguments.model)
    scores = labelled.evaluate(model, arguments.folder, classes, arguments.out)
    print(json.dumps(scores, indent=2) if arguments.json else labelled.as_text(scores))
    if model.record.synthetic:
        print(f"This model was trained on the synthetic sample. {RESEARCH}", file=sys.stderr)


if __name__ == "__main__":
    command()
