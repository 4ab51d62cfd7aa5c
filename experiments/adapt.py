"""Adapt a network to your cells: continue its training on them, and on cells of the set that it came from.

Cells, split and all other settings come from params.yaml. Runs the DVC experiment NAME. Then evaluates the
bundles before and after it on the test cells, and on sets that neither learned from.
"""

from pathlib import Path

from experiments import experiment
from malaria import bundle, params, paths, tables
from malaria.cells import packed
from malaria.command import new_parser, positive, run_and_exit
from malaria.errors import UserError
from malaria.predict import external


def main() -> None:
    parser = new_parser("experiments.adapt", __doc__)
    parser.add_argument("--name", default="adapted", help="name of the experiment (adapted)")
    parser.add_argument(
        "--start", type=Path, default=paths.PRETRAINED, help="a bundle with model.keras (models/pretrained)"
    )
    parser.add_argument(
        "--rehearsal",
        type=Path,
        default=Path("data/others"),
        help="a folder with the set that it came from, laid out as laboratories.folder (data/others)",
    )
    parser.add_argument("--epochs", type=positive, default=3, help="through your cells and the rehearsal (3)")
    parser.add_argument("--rate", type=float, default=0.0005, help="peak learning rate (0.0005)")
    parser.add_argument("--kept", type=Path, nargs="*", default=[], help="sets that neither learned from")
    arguments = parser.parse_args()
    settings = params.load_params()
    start = bundle.load(arguments.start, threads=1)
    size, colour = start.record.input_size, start.record.colour
    if (size, colour) != (settings.pack.size, settings.pack.colour):
        raise UserError(
            f"{arguments.start} sees cells of {size} px, colour {colour}: set pack.size and pack.colour in "
            "params.yaml to these."
        )
    # If two changes have the same key, the last one counts.
    changes = [
        *experiment.outside_git(settings),
        experiment.change("train.start", arguments.start.resolve()),
        experiment.change("laboratories.folder", arguments.rehearsal.resolve()),
        f"train.epochs={arguments.epochs}",
        f"train.learning_rate={arguments.rate}",
        "train.keep=last",
    ]
    experiment.run(arguments.name, changes)
    with experiment.copy_of(arguments.name, paths.PACKED) as folder:
        cells, prepared = experiment.side(arguments.name, tables.TEST, packed.load(folder))
        adapted = experiment.bundle_of(arguments.name)
        for when, model in {"before": start, "after": adapted}.items():
            scores = {f"test cells, {when}": external.figures(model, cells, prepared, settings)}
            for path in arguments.kept:
                scores[f"{path.stem}, {when}"] = external.judge(model, path, settings)
            print(external.as_text(scores), flush=True)


if __name__ == "__main__":
    run_and_exit(main)
