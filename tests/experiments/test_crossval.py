"""Cross-validation of a changed recipe, and without a laboratory, whose cells the network then never saw."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from app import pictures
from malaria import labels
from tests.support import project


@pytest.mark.long
def test_a_laboratory_that_is_left_out_is_judged_by_a_network_that_never_saw_it(repository):
    for number, (pixels, infected) in enumerate(pictures.cells(12, seed=5)):
        file = repository / "data/others/west" / labels.LABELS[infected] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    command = (sys.executable, "-m", "experiments.crossval", "--folds", "3", "--leave-out", "laboratories")
    project.run(*command, "--set", "train.epochs=1", cwd=repository)
    written = (repository / "reports/crossval/crossval-laboratories.json").read_text()
    ((name, found),) = json.loads(written).items()
    # If the network had learned from the set, all its cells would be known.
    assert (name, found["cells"], found["parasitized"], found["known"]) == ("west", 12, 6, 0)


@pytest.mark.longest
@pytest.mark.long
def test_a_changed_recipe_is_compared_with_the_first_whose_folds_are_not_trained_again(
    crossvalidated, tmp_path
):
    repository = project.copy(crossvalidated, tmp_path / "repository")

    def experiment(name: str, *arguments: str) -> str:
        return project.run(sys.executable, "-m", f"experiments.{name}", *arguments, cwd=repository).stdout

    def trainings() -> set[Path]:
        runs = (repository / ".dvc/cache/runs").glob("*/*/*")
        return {path for path in runs if "stages.train" in path.read_text()}

    before, spread = trainings(), repository / "reports/crossval/spread.csv"
    experiment("crossval", "--folds", "3", "--name", "again")
    assert trainings() == before
    assert spread.with_name("again.csv").read_bytes() == spread.read_bytes()
    experiment("crossval", "--folds", "3", "--name", "no_average", "--set", "train.averaging=0.0")
    assert len(trainings() - before) == 3
    compared = experiment("compare", str(spread), "--name", "no_average")
    assert compared.startswith(f"no_average and {spread}: {len(spread.read_text().splitlines()) - 1:,} cells")
