"""The label audit puts labels first that models of other patients contradict."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from malaria import label_audit
from malaria.errors import UserError


@pytest.fixture
def cells() -> pd.DataFrame:
    """200 cells of both classes, predicted well; the labels of the first six are wrong."""
    random = np.random.default_rng(3)
    parasitized = np.arange(200) % 2 == 0
    p = np.where(parasitized, 0.95, 0.05) + random.uniform(-0.04, 0.04, 200)
    p[:6] = np.where(parasitized[:6], 0.995, 0.005)
    labels = np.where(parasitized, "Parasitized", "Uninfected")
    labels[:6] = np.where(parasitized[:6], "Uninfected", "Parasitized")
    paths = [f"{label}/cell_{number}.png" for number, label in enumerate(labels)]
    return pd.DataFrame({"path": paths, "label": labels, "patient": "P1", "p_parasitized": p})


def test_wrong_labels_come_first_and_are_called_suspect(cells):
    ranked = label_audit.rank(cells)
    assert set(ranked.path[:6]) == set(cells.path[:6])
    assert ranked.suspect.to_numpy().nonzero()[0].tolist() == list(range(6))
    assert ranked.score.is_monotonic_decreasing
    assert ranked.score.between(0, 1).all()


def test_the_summary_counts_by_class_and_names_patients(cells):
    text = label_audit.summary(label_audit.rank(cells))
    assert "Parasitized: 3 of 100 labels are suspect" in text
    assert "of the patients P1 3" in text


def test_a_ranking_that_finds_all_others_doubt_has_full_precision(cells):
    ranked = label_audit.rank(cells)
    assert label_audit.average_precision(ranked, np.arange(200) < 6) == 1


def test_cells_of_one_class_are_refused(cells):
    with pytest.raises(UserError, match="all of one class"):
        label_audit.rank(cells[cells.label == "Uninfected"])


def test_a_contact_sheet_has_a_place_for_each_cell(cells, tmp_path):
    for path in cells.path:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), "red").save(tmp_path / path)
    ranked = label_audit.rank(cells)
    label_audit.contact_sheet(ranked, "Parasitized", tmp_path, 20, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (12 * 96, 2 * 122)
        assert sheet.convert("RGB").getpixel((40, 40)) == (255, 0, 0)
