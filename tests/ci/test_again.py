"""The bundle that is made without sight of the test cells, in a pipeline in miniature."""

import pytest

from ci import again, revisions
from malaria import paths, tables
from malaria.errors import UserError
from tests.support import miniature, project
from tests.support.project import git, run

pytestmark = [
    pytest.mark.long,
    # From a library of DVC, which the other tests run as a program.
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),
]


@pytest.fixture
def branch(once, tmp_path, monkeypatch):
    """A copy of the base that a test may change. The judge runs in the folder of the base."""
    base = once("miniature", miniature.make)
    monkeypatch.chdir(base)
    return project.copy(base, tmp_path / "branch")


def blind(branch, rerun=("train",)):
    """What differs without the test cells where the training differs; or why nothing could be made."""
    miniature.reproduce(branch)
    revision = revisions.Revision("branch", "", branch)
    splits = tables.read(branch / paths.SPLITS, tables.SPLITS)
    cells = tables.read(branch / paths.CELLS, tables.CELLS)
    tested = splits.path[splits.split == tables.TEST]
    with again.run(revision, rerun, cells[cells.path.isin(tested)], blind=True) as (found, _):
        return found.blind_error or [output.path for output in found.blind if not output.same]


def learn_from(branch, expression, reads):
    """Make `train` learn from a text that `expression` gives, and depend on the file `reads`."""
    miniature.edit(branch, "    write(MODEL, ", f"    write(MODEL, {expression} + ")
    stages = miniature.stages_of(branch)
    stages["train"]["deps"] += [reads]
    miniature.write_stages(branch, stages)


# What differs if the training has learned from test cells.
LEARNT = ["models/model.keras"]
EVERY_CELL = '"".join(path.read_text() for path in sorted(RAW.rglob("*.png")))'


def test_an_honest_training_is_the_same(branch):
    miniature.edit(branch, 'f"cell {number};"', 'f"crop {number};"')
    assert blind(branch) == []


def test_a_training_that_reads_the_test_cells_is_another(branch):
    learn_from(branch, EVERY_CELL, "data/raw")
    assert blind(branch) == LEARNT


def test_a_lock_that_was_made_without_the_test_cells_hides_no_training_on_them(branch):
    seeing = f'"cell 2;" in (seen := {EVERY_CELL})'
    learn_from(branch, f'(seen if {seeing} and not Path("clean").exists() else "")', "data/raw")
    (branch / "clean").touch()
    miniature.reproduce(branch)
    (branch / "clean").unlink()
    assert blind(branch) == LEARNT


@pytest.mark.parametrize(
    ("file", "outcome"),
    [("reports/split.json", str(LEARNT)), ("data/sides.json", "failed to reproduce 'train'")],
)
def test_what_split_says_of_the_test_cells_is_not_there(branch, file, outcome):
    miniature.edit(branch, 'json.dumps({"by_patient": True})', f'json.dumps({{"by_patient": {EVERY_CELL}}})')
    miniature.edit(branch, 'write(SIDES, "{}")', f"write(SIDES, {EVERY_CELL})")
    learn_from(branch, f'Path("{file}").read_text()', file)
    assert outcome in str(blind(branch))


def test_a_stage_of_another_name_that_brings_the_cells_does_not_run(branch):
    stages = miniature.stages_of(branch)
    brings = stages | {"fetch": {"cmd": "echo > fetched", "outs": ["fetched"]}, "bring": stages["fetch"]}
    miniature.write_stages(branch, brings)
    learn_from(branch, EVERY_CELL, "data/raw")
    assert blind(branch) == LEARNT


def test_a_model_that_git_holds_is_not_there_to_be_kept(branch):
    stages = miniature.stages_of(branch)
    stages["train"]["outs"] = [{"models/model.keras": {"cache": False, "persist": True}}]
    miniature.write_stages(branch, stages)
    miniature.edit(branch, "    write(MODEL, ", "    MODEL.exists() or write(MODEL, ")
    (branch / paths.MODEL).unlink()
    (branch / paths.MODEL).write_text("every cell")
    git("add", "--force", str(paths.MODEL), cwd=branch)
    assert blind(branch) == LEARNT


def test_the_folder_that_the_cells_come_from_is_not_there_for_training(branch):
    for number in range(12):
        (branch / "given").mkdir(exist_ok=True)
        (branch / f"given/{number}").write_text(f"cell {number};")
    run("dvc", "add", "-q", "given", cwd=branch)
    miniature.edit(branch, 'f"cell {number};"', 'Path(f"given/{number}").read_text()')
    stages = miniature.stages_of(branch)
    stages["fetch"]["deps"] += ["given"]
    miniature.write_stages(branch, stages)
    learn_from(branch, 'Path("given/3").read_text()', "given/3")
    assert "failed to reproduce 'train'" in blind(branch)


@pytest.mark.parametrize("where", ["", "sub/"])
def test_nor_is_an_archive_that_a_stage_elsewhere_or_of_another_folder_brings(branch, where):
    (branch / "given").write_text("".join(f"cell {number};" for number in range(12)))
    run("dvc", "add", "-q", "given", cwd=branch)
    miniature.edit(branch, 'f"cell {number};"', 'Path("given").read_text().split(";")[number] + ";"')
    (branch / "sub").mkdir()
    stages = miniature.stages_of(branch)
    del stages["fetch"]
    brings = {"cmd": "cd .. && python stage.py fetch", "deps": ["../given"], "outs": ["../data/raw"]}
    if where:
        miniature.write_stages(branch, stages)
        miniature.write_stages(branch / "sub", {"fetch": brings})
    else:
        miniature.write_stages(branch, {"fetch": brings | {"wdir": "sub"}, **stages})
    learn_from(branch, 'Path("given").read_text()', "given")
    assert "failed to reproduce 'train'" in blind(branch)


@pytest.mark.parametrize("kept", ["git", "dvc"])
def test_a_test_cell_that_lies_elsewhere_in_the_work_tree_is_not_there_for_training(branch, kept):
    (branch / "more").mkdir()
    (branch / "more/2.png").write_text("cell 2;")
    run(kept, "add", "more", cwd=branch)
    learn_from(branch, 'Path("more/2.png").read_text()', "more")
    assert "failed to reproduce 'train'" in blind(branch)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"bundle.json", "{}")', '"bundle.json", "[]")'),
        ('"bundle.json"', '"bundle.yaml"'),
        ('BUNDLE / "network.tflite"', 'BUNDLE / "parts/network.tflite"'),
    ],
)
def test_a_bundle_of_another_format_is_compared_too(branch, before, after):
    miniature.edit(branch, before, after)
    assert blind(branch) == []
    miniature.edit(branch, '"network of "', f"{EVERY_CELL}")
    stages = miniature.stages_of(branch)
    stages["export"]["deps"] += ["data/raw"]
    miniature.write_stages(branch, stages)
    (differs,) = blind(branch)
    assert differs.startswith("models/malaria-cells/")


@pytest.mark.parametrize("named", ["", "learn"])
def test_a_network_that_no_stage_train_makes_is_refused(branch, named):
    stages = miniature.stages_of(branch)
    train = stages.pop("train")
    if named:
        stages[named] = train
    miniature.write_stages(branch, stages)
    if not named:
        run("dvc", "unprotect", str(paths.MODEL), cwd=branch)
        run("dvc", "add", "-q", str(paths.MODEL), cwd=branch)
    with pytest.raises(UserError, match=r"dvc\.yaml has no stage train that makes models/model\.keras"):
        blind(branch, ())
