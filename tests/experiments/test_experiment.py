"""experiments.experiment: the files that a clone needs, running folds, and reading their results."""

import math
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from experiments import crossval, experiment, pretrained
from malaria import tables
from malaria.errors import UserError
from malaria.params import load_params
from tests.conftest import ROOT
from tests.support.project import change, commit, git, run


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository, also the current folder, with params.yaml and lists; its commit has tag `crossval-0`."""
    folder = tmp_path / "repository"
    (folder / "data/folder").mkdir(parents=True)
    for name in ("params.yaml", "data/doubtful.csv", "data/split.csv", "data/folder/README.md"):
        shutil.copy(ROOT / name, folder / name)
    run("git", "init", "-q", ".", cwd=folder)
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=folder)
    commit(folder, "all")
    git("tag", "crossval-0", cwd=folder)
    monkeypatch.chdir(folder)
    return folder


def test_paths_that_git_wholly_holds_stay_as_they_are(repository):
    # An uncommitted change also gets into the fold's clone.
    (repository / "data/split.csv").write_text("patient,fold\nP1,0\n")
    assert experiment.outside_git(load_params()) == []


def test_cells_and_lists_that_git_does_not_hold_are_named_by_their_whole_path(repository, tmp_path):
    (repository / "data/folder/Parasitized").mkdir()
    (repository / "data/folder/Parasitized/cell.png").touch()
    (repository / "data/mine.csv").write_text("given_label,file\n")
    (repository / ".gitignore").write_text("/data/mine.csv\n")
    (tmp_path / "split.csv").write_text("patient,fold\n")
    change(repository, {"train.labels_file": "data/mine.csv", "split.file": "../split.csv"})
    assert experiment.outside_git(load_params()) == [
        f"data.folder='{repository}/data/folder'",
        f"split.file='{tmp_path}/split.csv'",
        f"train.labels_file='{repository}/data/mine.csv'",
    ]


@pytest.mark.parametrize("name", ["plain", "two words", "Müller, (2020)", "it's [1] of 2=2"])
def test_a_path_reaches_the_experiment_whatever_signs_it_has(tmp_path, name):
    (tmp_path / name).mkdir()
    file = str(tmp_path / name / "labels.csv")
    settings = load_params(ROOT / "params.yaml")
    train = settings.train.model_copy(update={"labels_file": file})
    shutil.copy(ROOT / "params.yaml", tmp_path)
    # As `dvc exp run -S` does.
    apply_overrides(
        tmp_path / "params.yaml", experiment.outside_git(settings.model_copy(update={"train": train}))
    )
    assert load_params(tmp_path / "params.yaml").train.labels_file == file


@pytest.mark.usefixtures("repository")
def test_the_bundle_that_git_carries_is_never_made_of_the_synthetic_sample(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrained"])
    with pytest.raises(UserError, match=r"models/pretrained is for real cells, .* name others there"):
        pretrained.main()


def test_an_experiment_or_file_that_is_gone_is_said_in_a_sentence(repository):
    for name, path in (("crossval-7", Path("params.yaml")), ("crossval-0", Path("reports/metrics.json"))):
        with pytest.raises(UserError, match=f"{path} of the experiment {name} is not to be had here"):
            experiment.read(name, path)
        with pytest.raises(UserError, match=f"{path} of the experiment {name} is not to be had here"):
            experiment.get(name, path, repository / "copy")


def test_a_file_and_a_folder_are_read_as_the_experiment_left_them(repository):
    then = (repository / "params.yaml").read_text()
    change(repository, {"train.epochs": 3})
    assert experiment.read("crossval-0", Path("params.yaml")) == then
    experiment.get("crossval-0", Path("data/folder"), repository / "copy")
    assert [file.name for file in (repository / "copy").iterdir()] == ["README.md"]


def test_a_figure_that_cannot_be_given_is_shown_as_nan():
    of = {name: {"value": 0.5} for name in crossval.FIGURES} | {"auc": {"value": None}}
    auc, *others = crossval.figures_of({"test": of})
    assert math.isnan(auc)
    assert others == [0.5] * 4
    assert f"{auc:18.4f}".strip() == "nan"


def test_a_bundle_takes_the_figures_of_folds_of_its_own_recipe_alone(repository):
    change(repository, {"train.labels_file": f"{repository}/data/doubtful.csv", "split.folds": 5})
    pretrained.check_recipe("crossval-0")
    change(repository, {"train.epochs": 3})
    with pytest.raises(UserError, match=r"crossval-0 was made with another train\.epochs than params\.yaml"):
        pretrained.check_recipe("crossval-0")


@pytest.mark.parametrize("name", ["compare", "crossval", "label_audit", "precision", "pretrained"])
def test_help_does_not_wait_for_tensorflow(name):
    code = f"import sys, experiments.{name}; print('tensorflow' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "False"


def test_a_patient_called_na_stays_one_in_a_table_of_another_revision():
    content = "path,label,patient,split\na.png,Uninfected,NA,test\nb.png,Uninfected,01,test\n"
    read = tables.read(Path("data/splits.csv"), tables.SPLITS, content=content)
    assert list(read.patient) == ["NA", "01"]
    with pytest.raises(UserError, match=r"data/splits\.csv has the columns path, but needs"):
        tables.read(Path("data/splits.csv"), tables.SPLITS, content="path\na.png\n")


def test_folds_run_as_many_at_once_as_is_asked_and_each_comes_with_its_result():
    both = threading.Barrier(2)

    def squared(number: int) -> int:
        both.wait(timeout=60)
        return number**2

    assert sorted(experiment.parallel(squared, [1, 2, 3, 4], 2)) == [(1, 1), (2, 4), (3, 9), (4, 16)]


def test_a_fold_that_fails_ends_those_that_wait():
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise UserError("fold 0 failed")
        time.sleep(0.1)

    with pytest.raises(UserError, match="fold 0 failed"):
        list(experiment.parallel(fail, range(300), 1))
    assert len(begun) < 300
