"""experiments.crop_size: does a cell get the same category at its original size and resized?"""

import pytest
from PIL import Image

from experiments import crop_size
from malaria import bundle, paths
from malaria.errors import UserError
from tests import conftest
from tests.support import bundles


@pytest.fixture
def copies(tmp_path):
    """Synthetic cells at their original size, and copies of 50 px, one of them without its violet."""
    for number, (cell, _) in enumerate(bundles.drawn_cells()):
        whole, small = tmp_path / "whole", tmp_path / "small"
        whole.mkdir(exist_ok=True)
        small.mkdir(exist_ok=True)
        Image.fromarray(cell).save(whole / f"{number:02}.png")
        copy = Image.fromarray(cell[:, :, [0, 1, 1]] if number == 6 else cell)
        copy.resize((50, 50), Image.Resampling.BILINEAR, reducing_gap=None).save(small / f"{number:02}.png")
    Image.new("RGB", (50, 50)).save(tmp_path / "small/stranger.png")
    return tmp_path


def test_a_cell_and_its_copy_are_judged_and_compared(model_bundle, copies):
    model = bundle.load(model_bundle)
    pairs = crop_size.judge(model, str(copies / "whole"), str(copies / "small"))
    assert list(pairs.index) == [f"{number:02}.png" for number in range(12)]
    assert list(pairs.index[~pairs.same]) == ["06.png"]


def test_the_count_of_cells_turned_away_at_both_sizes_is_told(tmp_path, monkeypatch, capsys):
    for folder, side in (("whole", 60), ("small", 50)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (side, side), "white").save(tmp_path / folder / "white.png")
    bundle_of_cells = str(conftest.ROOT / paths.PRETRAINED)
    folders = [str(tmp_path / "whole"), str(tmp_path / "small")]
    monkeypatch.setattr("sys.argv", ["crop_size", *folders, "--model", bundle_of_cells])
    crop_size.main()
    assert "\n1 of these are turned away at both\n" in capsys.readouterr().out


def test_folders_without_a_common_name_are_refused(model_bundle, copies):
    (copies / "else").mkdir()
    Image.new("RGB", (50, 50)).save(copies / "else/other.png")
    with pytest.raises(UserError, match="have no file name in common"):
        crop_size.judge(bundle.load(model_bundle), str(copies / "whole"), str(copies / "else"))


@pytest.mark.real_cells
def test_the_pretrained_bundle_says_the_same_at_original_size_and_rejects_few(shared_cells):
    model = bundle.load(conftest.ROOT / paths.PRETRAINED)
    originals, copies = shared_cells / "nih-original-size.zip", shared_cells / "nih-50px-160-patients.zip"
    pairs = crop_size.judge(model, str(originals), str(copies))
    assert len(pairs) == 159
    assert pairs.same.mean() >= 0.98
    for status in (pairs.status, pairs.status_other):
        assert (status == "rejected").mean() <= 0.02
