"""The page's verdict on a cell and on a batch: category, second look, totals, score of a test round."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from app import batches, cells, model, verdict
from app.inference import Answer
from app.verdict import HALF, Point
from malaria import bundle

LATE = Point("99 % specificity", 0.8, 0.99)


def said(p: float, point: Point = HALF) -> verdict.Verdict:
    return verdict.of(Answer(p), point, synthetic=False)


@pytest.mark.parametrize(
    ("p", "point", "label"),
    [
        (0.8, LATE, "Parasitized"), (0.7999, LATE, "Uninfected"),
        (0.5, HALF, "Parasitized"), (0.4999, HALF, "Uninfected"),
    ],
)  # fmt: skip
def test_a_category_is_that_at_the_operating_point(p, point, label):
    assert (said(p, point).category, said(p, point).headline) == (label, label)


def test_no_cell_gets_no_category_and_no_second_look():
    found = verdict.of(Answer(0.5, "too far from any cell"), HALF, synthetic=False)
    assert (found.status, found.p, found.category, found.second_look) == ("rejected", None, None, False)
    assert found.headline == "This does not look like a stained red cell."
    assert found.sentences[0] == "Too far from any cell."


@pytest.mark.parametrize(
    ("why", "said"), [("", []), (": odd colour", ["Odd colour."]), (": a drawing?", ["A drawing?"])]
)
def test_the_sentence_on_no_cell_does_not_repeat_the_headline(why, said):
    answer = Answer(0.5, f"this does not look like a stained red cell{why}")
    *reasons, _ = verdict.of(answer, HALF, synthetic=False).sentences
    assert reasons == said


@pytest.mark.parametrize(
    ("p", "point", "unsure"),
    [
        (0.0999, HALF, False), (0.1, HALF, True), (0.9, HALF, True), (0.9001, HALF, False),
        (0.04, Point("", 0.05), False), (0.05, Point("", 0.05), True), (0.95, Point("", 0.95), True),
        (0.96, Point("", 0.95), False), (1.0, Point("", 1.0000001), True),
    ],
)  # fmt: skip
def test_a_second_look_is_advised_from_p_0_1_to_0_9_and_at_the_threshold(p, point, unsure):
    assert said(p, point).second_look == unsure
    assert 0 <= point.band[0] < point.band[1] <= 1


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.004, "fewer than 1 should"), (0.006, "about 1 should"), (0.37, "about 37 should"),
        (0.994, "about 99 should"), (0.996, "more than 99 should"),
    ],
)  # fmt: skip
def test_a_probability_is_told_as_so_many_of_a_hundred_cells(p, words):
    assert words in said(p).sentences[0]


@pytest.mark.parametrize(
    ("p", "point", "words"),
    [
        (0.8, LATE, "P lies exactly on the threshold, 0.800, which itself counts as Parasitized."),
        (0.9, LATE, "P is above the threshold, 0.800 (99 % specificity)."),
        (0.4, HALF, "P is below the threshold, 0.500."),
        # Equal to the threshold in three decimal places, but not in six.
        (0.5001, HALF, "P is above the threshold, 0.500000."),
        (0.4999, HALF, "P is below the threshold, 0.500000."),
    ],
)
def test_a_verdict_says_on_which_side_of_the_threshold_p_lies(p, point, words):
    assert said(p, point).sentences[1] == words


@pytest.mark.parametrize(("synthetic", "kind"), [(True, "drawn, synthetic"), (False, "labelled")])
def test_a_share_is_of_the_cells_that_the_model_was_calibrated_on(synthetic, kind):
    told = verdict.of(Answer(0.37), HALF, synthetic).sentences[0]
    assert told.startswith(f"Of 100 {kind} cells that the model rates like this one, about 37 should")


def test_another_models_point_is_the_one_of_the_same_specificity():
    known = (HALF, Point("97 % specificity", 0.8, 0.97), Point("99 % specificity", 0.9, 0.99))
    assert verdict.matching(LATE, known).threshold == 0.9
    assert verdict.matching(HALF, known) is HALF
    odd = Point("98 % specificity", 0.7, 0.98)
    assert verdict.matching(odd, known) is odd


def test_a_points_cost_is_what_the_bundles_figures_have_at_it(model_bundle):
    def rates(sensitivity: float, specificity: float) -> dict[str, dict[str, float]]:
        return {"sensitivity": {"value": sensitivity}, "specificity": {"value": specificity}}

    scores = rates(0.9, 0.75) | {"at_95_specificity": rates(0.8, 0.96), "at_97_specificity": rates(0.7, 0.98)}
    found = verdict.points(bundle.read_record(model_bundle), scores)
    assert found.index(HALF) == 0
    assert [point.name for point in found] == ["0.5", *(f"{at} % specificity" for at in (95, 97, 99))]
    assert [point.missed for point in found] == pytest.approx([10, 20, 30, None])
    assert [point.alarms for point in found] == pytest.approx([25, 4, 2, None])
    told = verdict.cost(found[0], found)
    assert "100 parasitised cells 10.0 missed" in told
    assert "100 healthy ones 25.0 called" in told
    assert "fewest misses" in told
    assert "fewest false alarms" in verdict.cost(found[-1], found)
    unknown = verdict.points(bundle.read_record(model_bundle), None)
    assert [point.missed for point in unknown] == [None] * 4
    assert verdict.cost(unknown[1], unknown) == f"{unknown[1].threshold:.3f}: 95 % specificity"


def test_a_batch_is_counted_by_status_and_category():
    found = [said(p) for p in (0.99, 0.95, 0.5, 0.3, 0.01)]
    found += [verdict.of(Answer(0.99, "no cell"), HALF, synthetic=False)] * 2
    found += [verdict.unreadable("empty file")]
    totals = batches.totals(found, foreign=True)
    assert totals.foreign
    assert (totals.images, totals.judged, totals.parasitized, totals.second_look) == (8, 5, 3, 2)
    assert (totals.rejected, totals.unreadable, totals.share) == (2, 1, 0.6)
    interval = stats.binomtest(3, 5).proportion_ci(method="wilson")
    assert (totals.low, totals.high) == pytest.approx(interval)
    # Of seven readable cells, the two that were rejected may both be healthy, or both parasitised.
    assert (totals.least, totals.most) == (3 / 7, 5 / 7)


@pytest.mark.parametrize(
    ("p", "rejected", "look"), [(0.95, None, False), (0.9, None, True), (0.05, None, True), (0.95, "", True)]
)
def test_a_cell_is_worth_a_look_where_a_version_is_unsure_or_says_another_thing(p, rejected, look):
    other = verdict.of(Answer(p, rejected), HALF, synthetic=False)
    assert batches.worth_a_look([said(0.97), other]) == look


def test_a_batch_is_foreign_by_its_judged_cells(gated_bundle):
    loaded = bundle.load(gated_bundle, threads=1)
    patients = {
        "patients_centre": np.zeros(13, np.float32),
        "patients_whitening": np.eye(13, dtype=np.float32),
        "patients_limit": np.ones(1, np.float32),
    }
    check = dataclasses.replace(loaded.fitted_ood, **patients)
    fitted = dataclasses.replace(loaded, fitted_ood=check)
    served = dataclasses.replace(model.open_model(gated_bundle), bundle=fitted)

    def judged(look: float, cells: int, rejected: str | None = None) -> list[batches.JudgedImage]:
        answer = Answer(0.5, rejected, look=np.full(16, look, np.float32))
        return [batches.JudgedImage(f"{number}.png", "", (answer,)) for number in range(cells)]

    def foreign(batch: list[batches.JudgedImage]) -> bool | None:
        return batches.outcomes([served], batch, HALF)[0].totals.foreign

    assert foreign(judged(0.0, 50)) is False
    assert foreign(judged(1.0, 50)) is True
    assert foreign(judged(1.0, 49)) is None
    assert foreign(judged(0.0, 50) + judged(9.0, 50, "no cell")) is False


def test_a_batch_without_a_judged_cell_has_no_share():
    totals = batches.totals([verdict.unreadable("empty file")])
    assert (totals.low, totals.high, totals.share) == (0.0, 1.0, None)
    assert (totals.least, totals.most) == (0.0, 1.0)


@pytest.mark.parametrize("hits", [0, 1, 7])
def test_the_interval_of_a_share_is_wilsons(hits):
    found = batches.wilson(hits, 7)
    assert found == pytest.approx(stats.binomtest(hits, 7).proportion_ci(method="wilson"), abs=1e-7)
    assert 0 <= found[0] < found[1] <= 1


def test_a_round_is_scored_on_open_cells_that_are_new_to_the_model():
    def card(p: float, label: str, rejected: str | None = None, known: bool | None = False, shown=True):
        return cells.Card("", label, Answer(p, rejected), known, guess="Parasitized", open=shown)

    cards = (
        card(0.9, "Parasitized"), card(0.7, "Uninfected"), card(0.7, "Uninfected"), card(0.7, "Parasitized"),
        card(0.9, "Parasitized", known=None), card(0.9, "Parasitized", known=True),
        card(0.9, "Parasitized", rejected="no cell"), card(0.9, "Parasitized", shown=False),
    )  # fmt: skip
    assert cells.tally(cards, LATE) == cells.Tally(cells=5, model=4, guessed=5, person=3, rejected=1)
