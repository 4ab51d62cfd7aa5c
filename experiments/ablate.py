"""Change one thing of the recipe at a time, and cross-validate each change on the same folds.

Each fold of each row is a DVC experiment `ablation-ROW-FOLD`. It trains for fewer epochs than a final model,
so that many changes can be compared; `--full` trains as long as the pipeline does. Finished experiments come
from DVC's run cache, so that the command continues where it stopped.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import experiment
from malaria import labels, params, paths, tables
from malaria.cells import doubtful_labels, splits
from malaria.command import end_with, how_many, options
from malaria.errors import UserError
from malaria.evaluate import evaluation, paired

EPOCHS = 6


@dataclass(frozen=True)
class Row:
    """A change of the recipe: other `settings` of section train, and `times` as many epochs."""

    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1


# Changes that help go into params.yaml or the library. Rows that led nowhere are gone; docs/model.md has
# their figures.
RECIPE = "recipe"
ROWS = {
    RECIPE: Row("the recipe"),
    "as_given": Row("labels in doubt kept", {"noisy_labels": "keep"}),
    "soften": Row("labels in doubt softened", {"noisy_labels": "soften"}),
    "no_average": Row("no averaging of weights", {"averaging": 0.0}),
    "no_smoothing": Row("no label smoothing", {"label_smoothing": 0.0}),
    "no_colour": Row("no stain jitter", {"colour": 0.0, "brightness": 0.0}),
    "more_colour": Row("twice the stain jitter", {"colour": 0.2, "brightness": 0.2}),
    "longer": Row("twice the epochs", times=2),
}


def main() -> None:
    parser = options("experiments.ablate", __doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="rows beside the recipe (all)")
    parser.add_argument("--epochs", type=how_many, default=EPOCHS, help="for each training (%(default)s)")
    parser.add_argument("--full", action="store_true", help="train for the epochs of params.yaml")
    parser.add_argument("--workers", type=how_many, default=1, help="folds that run at once (1)")
    arguments = parser.parse_args()
    settings = params.load_params()
    folds = splits.folds_in(Path(settings.split.file)) or list(range(settings.split.folds))
    if not folds:
        raise UserError(
            "split.folds is 0 in params.yaml: set it to 5, or name a file of folds in split.file."
        )
    epochs = settings.train.epochs if arguments.full else arguments.epochs
    rows = [row for row in ROWS if row in (RECIPE, *arguments.rows)]
    tasks = [(row, fold) for row in rows for fold in folds]
    path_changes = experiment.outside_git(settings)

    def run(task: tuple[str, int]) -> str:
        row, fold = task
        changes = [*path_changes, f"split.fold={fold}", *changes_of(ROWS[row], epochs)]
        return experiment.run(f"ablation-{row}-{fold}", changes, "evaluate")

    fold_tables: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for (row, fold), name in experiment.parallel(run, tasks, arguments.workers):
        fold_tables[row].append(experiment.fold_predictions(name, fold))
        print(f"{row}, fold {fold}: done", flush=True)
    predictions = {row: pd.concat(fold_tables[row]).sort_values("path", ignore_index=True) for row in rows}
    for row, table in predictions.items():
        tables.write(table, paths.ABLATION / f"{row}.csv", tables.OUT_OF_FOLD)
    doubtful = doubtful_labels.of_evaluation(settings.evaluate)
    print(f"\n{as_table(predictions, settings.evaluate, doubtful)}")


def as_table(
    predictions: dict[str, pd.DataFrame], settings: params.Evaluate, doubtful: doubtful_labels.Pairs
) -> str:
    """The rows as a Markdown table; each is compared with the first one."""
    recipe, *_ = predictions.values()
    lines = [
        "| change | accuracy (sd over folds) | AUC | sensitivity, mean of patients | worst tenth "
        "| accuracy, minus the recipe's |",
        "|---|---|---|---|---|---|",
    ]
    for name, cells in predictions.items():
        differences = paired.differences(paired.join(cells, recipe), settings, doubtful)
        figures = differences.get(evaluation.WITHOUT, differences[evaluation.AS_GIVEN])
        sure = cells[~doubtful_labels.among(cells, doubtful)]
        correct = (sure.p_parasitized >= 0.5) == (sure.label == labels.PARASITIZED)
        accuracy_sd = correct.groupby(sure.fold).mean().std()
        gap = figures["accuracy"].difference
        gap_text = "" if cells is recipe else f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        lines.append(
            f"| {ROWS[name].description} | {figures['accuracy'].one:.4f} ({accuracy_sd:.4f}) "
            f"| {figures['auc'].one:.5f} | {figures['macro_sensitivity'].one:.4f} "
            f"| {figures['worst_decile_sensitivity'].one:.3f} | {gap_text} |"
        )
    return "\n".join(lines)


def changes_of(row: Row, epochs: int) -> list[str]:
    """KEY=VALUE for each parameter that a row changes, as `dvc exp run -S` takes it."""
    values = {"epochs": epochs * row.times, "patience": epochs * row.times, **row.settings}
    return [f"train.{key}={value}" for key, value in values.items()]


if __name__ == "__main__":
    end_with(main)
