"""The out-of-distribution check: it accepts cells, rejects other pictures, and says why."""

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import ConvexHull
from sklearn.covariance import LedoitWolf

from malaria.bundle import not_cells, ood
from malaria.cells import images, synthetic
from malaria.errors import UserError
from tests.support.toy_cells import prepared


class Mark:
    """Sets `Mark.unpickled` when a Mark is unpickled."""

    unpickled = False

    def __setstate__(self, state: object) -> None:
        Mark.unpickled = True

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


def drawn(seed: int, count: int) -> np.ndarray:
    """Synthetic cells, uint8 (count, 50, 50, 3), each with another patient's stain."""
    random = np.random.default_rng(seed)
    return np.stack(
        [
            images.resize(synthetic.draw(random, synthetic.stain(random), at % 2 == 0), 50)
            for at in range(count)
        ]
    )


def features_of(cells: np.ndarray) -> np.ndarray:
    """A stand-in for the network's features: the pixels of a 5 x 5 copy of each cell, float32 (n, 75)."""
    small = [np.asarray(Image.fromarray(cell).resize((5, 5))) for cell in cells]
    return np.stack(small).reshape(len(cells), -1).astype(np.float32)


@pytest.fixture(scope="module")
def train():
    return drawn(1, 400)


def seen(cells: np.ndarray) -> ood.Seen:
    return ood.Seen(prepared(cells), features_of(cells))


@pytest.fixture(scope="module")
def others(train) -> ood.Seen:
    drawn = not_cells.all_kinds(list(train[:20]), 4, seed=5)
    return seen(np.stack([images.resize(one, 50) for of_kind in drawn.values() for one in of_kind]))


@pytest.fixture(scope="module")
def fitted(train, others):
    return ood.fit(seen(train), others)


def reasons(fitted, picture):
    cells = images.resize(picture, 50)[None]
    return ood.reasons(fitted, seen(cells))[0]


def test_nearly_all_new_cells_pass(fitted):
    cells = drawn(3, 400)
    turned = sum(reason is not None for reason in ood.reasons(fitted, seen(cells)))
    assert turned <= 12


def test_drawn_pictures_of_another_seed_are_turned_away(train, fitted):
    drawn = not_cells.all_kinds(list(train[20:40]), 2, seed=6)
    pictures = [images.resize(one, 50) for of_kind in drawn.values() for one in of_kind]
    assert np.mean([reasons(fitted, picture) is not None for picture in pictures]) > 0.9


def test_limits_are_wider_where_held_out_cells_lie_farther_out():
    held_out = np.stack([np.linspace(-0.2, 0.6, 2000), np.linspace(-9, 3, 2000)], axis=1)
    found = ood.limits(held_out)
    # The limit is the tenth largest of 2,000 (0.5 %), so nine are above it.
    assert (held_out > found).sum(axis=0).tolist() == [9, 9]


@pytest.mark.parametrize("held_out", [np.full((100, 2), -5.0), np.zeros((0, 2))])
def test_limits_are_never_narrower_than_the_usual_ones(held_out):
    assert ood.limits(held_out).tolist() == [0.2, 1.0]


def test_ranges_hold_all_training_cells_but_the_outermost(train, others):
    found = ood.fit(seen(train), others)
    look = ood.quantities(prepared(train))
    # 0.02 % of 400 cells is less than one cell.
    assert (look < found.least).sum(axis=0).max() <= 1
    assert (look > found.most).sum(axis=0).max() <= 1
    assert np.array_equal(found.least[:13], np.quantile(look, 0.0002, axis=0).astype(np.float32)[:13])
    assert np.array_equal(found.most[:13], np.quantile(look, 0.9998, axis=0).astype(np.float32)[:13])
    # The network does not see the original colour, so own_stain and own_red have wider ranges.
    names = list(ood.REASONS)
    for name, below, above in (("own_stain", 1.5, 0.6), ("own_green", 0, 0), ("own_red", 0.2, 0.2)):
        at = names.index(name)
        assert found.least[at] == pytest.approx(look[:, at].min() - below, abs=0.01)
        assert found.most[at] == pytest.approx(look[:, at].max() + above, abs=0.01)


def test_beyond_its_limits_a_cell_is_turned_away(fitted):
    cells = drawn(3, 400)
    far = ood.distances(fitted, seen(cells))
    # Narrower limits, so that each of them rejects some cells.
    narrow = dataclasses.replace(fitted, limits=np.quantile(far, 0.9, axis=0))
    turned = [reason is not None for reason in ood.reasons(narrow, seen(cells))]
    assert turned == (far > narrow.limits).any(axis=1).tolist()
    assert (far > narrow.limits).any(axis=0).all()


def test_the_middle_is_a_disc_of_six_tenths_of_the_cell():
    y, x = np.meshgrid(*[np.linspace(-1, 1, 101)] * 2, indexing="ij")
    cell = (np.hypot(y, x) >= 0.3)[:, :, None] * np.uint8([180, 140, 160])
    middle = ood.quantities(prepared(cell[None]))[0, list(ood.REASONS).index("middle")]
    assert middle == pytest.approx(0.3**2 / 0.6**2, abs=0.01)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda cell: np.full_like(cell, 255), "too little black around the cell"),
        (lambda cell: np.zeros_like(cell), "no cell to be seen"),
        (lambda cell: 255 - cell, "too little black around the cell|corners"),
        (lambda cell: cell[15:35, 15:35], "too little black around the cell"),
        (lambda cell: np.repeat(cell.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8), "colour"),
        (lambda cell: np.tile(cell, (2, 2, 1)), "not one cell|several cells|do not go together"),
        (lambda cell: (cell.max(axis=2, keepdims=True) > 16) * np.uint8([190, 150, 170]), "one even colour"),
        (lambda cell: cell * np.uint8([0, 1, 0]), "darker|colour"),
    ],
    ids=["white", "black", "inverted", "part", "grey", "four cells", "even disc", "green"],
)
def test_what_is_no_stained_cell_is_turned_away_with_a_reason(fitted, make, reason):
    cell = drawn(5, 1)[0]
    assert reasons(fitted, cell) is None
    found = reasons(fitted, np.ascontiguousarray(make(cell)))
    assert found is not None
    assert re.search(reason, found), found


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (130, 125, None), (1000, 900, None), (1001, 900, "a side over 1,000 px"), (900, 1001, "a side over"),
        (46, 100, None), (50, 125, None), (50, 126, "as long as wide"), (126, 50, "as long as wide"),
    ],
)  # fmt: skip
def test_the_shape_of_a_crop_is_judged_before_it_is_resized(height, width, words):
    found = ood.shape_reason(height, width)
    assert (found is None) if words is None else (words in found)


def test_a_gate_is_the_same_after_saving_and_its_bytes_are_too(fitted):
    written = ood.to_bytes(fitted)
    again = ood.from_bytes(written)
    assert ood.to_bytes(again) == written
    cells = drawn(4, 20)
    assert (ood.distances(again, seen(cells)) == ood.distances(fitted, seen(cells))).all()


def test_a_cells_verdict_does_not_depend_on_the_cells_beside_it(fitted):
    cells = drawn(6, 30)
    alone = [ood.distances(fitted, seen(cell[None]))[0] for cell in cells]
    together = ood.distances(fitted, seen(cells))
    finite = np.isfinite(together)
    assert np.allclose(np.stack(alone)[finite], together[finite], rtol=1e-3)


def test_what_is_no_gate_is_refused_and_nothing_is_unpickled(fitted):
    with pytest.raises(UserError, match="check is damaged"):
        ood.from_bytes(b"no gate")
    pickled = io.BytesIO()
    arrays = {field.name: getattr(fitted, field.name) for field in dataclasses.fields(fitted)}
    np.savez(pickled, **{**arrays, "least": np.array([Mark()] * len(ood.REASONS), dtype=object)})
    Mark.unpickled = False
    with pytest.raises(UserError, match="check is damaged"):
        ood.from_bytes(pickled.getvalue())
    assert not Mark.unpickled


def test_a_gate_of_other_quantities_is_refused(fitted):
    with pytest.raises(UserError, match="of another version"):
        ood.from_bytes(ood.to_bytes(dataclasses.replace(fitted, least=fitted.least[1:])))


def test_no_cells_have_no_reasons(fitted):
    none = np.zeros((0, 50, 50, 3), np.uint8)
    assert ood.reasons(fitted, ood.Seen(prepared(none), np.zeros((0, 75), np.float32))) == ()


@pytest.mark.parametrize("size", [32, 50, 101])
def test_dents_are_the_black_within_the_convex_hull(size):
    random = np.random.default_rng(size)
    y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    for _ in range(20):
        blobs = random.uniform([-0.6, -0.6, 0.2], [0.6, 0.6, 0.4], (3, 3))
        part = np.any([np.hypot(y - top, x - left) < radius for top, left, radius in blobs], axis=0)
        corners = np.argwhere(part)[:, None] + np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
        hull = ConvexHull(corners.reshape(-1, 2)).volume
        cell = part[:, :, None] * np.uint8([180, 140, 160])
        dents = ood.quantities(prepared(cell[None]))[0, list(ood.REASONS).index("dents")]
        assert 0.995 <= (dents**2 + 1) / (hull / part.sum()) <= 1.1


def test_quantities_of_many_cells_are_those_of_each(train):
    together = ood.quantities(prepared(train[:70]))
    alone = np.concatenate([ood.quantities(prepared(cell[None])) for cell in train[:70]])
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_quantities_are_what_they_say():
    random = np.random.default_rng(0)
    cell = np.zeros((50, 50, 3), np.uint8)
    cell[10:40, 10:40] = random.integers(100, 200, (30, 30, 3))
    inside = cell[10:40, 10:40].astype(float)
    grey, red, blue = inside.mean(axis=2), inside[..., 0] - inside[..., 1], inside[..., 2] - inside[..., 1]
    found = dict(zip(ood.REASONS, ood.quantities(prepared(cell[None]))[0], strict=True))
    assert found["background"] == pytest.approx(1 - 900 / 2500)
    assert (found["corners"], found["dents"]) == (0, pytest.approx(0, abs=0.2))
    for name, values, spread in (
        ("brightness", grey, "contrast"),
        ("red", red, "red_spread"),
        ("blue", blue, "blue_spread"),
    ):
        assert found[name] == pytest.approx(values.mean(), rel=1e-4)
        assert found[spread] == pytest.approx(np.log(values.std() + 0.1), rel=1e-4)
    for name, order in (("roughness", 1), ("grain", 2)):
        steps = sum(np.abs(np.diff(grey, order, axis=axis)).sum() for axis in (0, 1))
        assert found[name] == pytest.approx(np.log(steps / (2 * 900) + 0.1), rel=1e-4)


@pytest.mark.parametrize(("level", "black"), [(16, 1600), (17, 0)])
def test_what_is_brighter_than_16_in_any_channel_is_cell(level, black):
    cell = np.zeros((1, 50, 50, 3), np.uint8)
    cell[..., 2] = level
    cell[:, 10:40, 10:40] = 150
    background = ood.quantities(prepared(cell))[0, list(ood.REASONS).index("background")]
    assert background == pytest.approx(black / 2500)


def test_the_colour_that_a_cell_had_is_looked_at_too(train, fitted):
    same = seen(train[:20])
    assert set(ood.reasons(fitted, same)) == {None}
    for own, said in (((3, 1, 2), "underexposed"), ((140, 200, 140), "colour is not that")):
        other = dataclasses.replace(same, cells=[dataclasses.replace(cell, own=own) for cell in same.cells])
        assert all(said in reason for reason in ood.reasons(fitted, other))


def test_a_stain_of_any_strength_has_one_colour():
    """Twice the dye squares the transmitted share of light (Beer-Lambert): only own_stain changes.

    The relative colours (own_green, own_red) stay the same where the summed density is above 1.
    """
    light, share = 235, np.array([0.78, 0.5, 0.6])
    own = [tuple(round(light * level) for level in share**strength) for strength in (1.0, 2.0)]
    cell = prepared(np.full((1, 50, 50, 3), 100, np.uint8))[0]
    one, two = ood.quantities([dataclasses.replace(cell, own=colour) for colour in own])[:, -3:]
    density = -np.log(share)
    assert one[0] == pytest.approx(np.log(density.sum()), abs=0.02)
    assert two[0] == pytest.approx(one[0] + np.log(2), abs=0.02)
    assert one[1] == pytest.approx(density[1] / density.sum() - 0.43, abs=0.01)
    assert one[2] == pytest.approx((density[0] - density[2]) / density.sum(), abs=0.01)
    assert two[1:] == pytest.approx(one[1:], abs=0.01)
    grey = ood.quantities([dataclasses.replace(cell, own=(94, 94, 94))])[0, -3:]
    assert grey == pytest.approx([np.log(3 * np.log(235 / 94)), 1 / 3 - 0.43, 0], abs=1e-5)


def test_what_follows_from_one_grey_level_has_no_dyes():
    grey = np.random.default_rng(0).integers(90, 200, (50, 50))
    stained = np.stack([200 * (grey / 150) ** 0.4, grey, 165 * (grey / 150) ** 0.8], axis=2).astype(np.uint8)
    dyes = list(ood.REASONS).index("dyes")
    found = ood.quantities(prepared(np.stack([stained, np.roll(stained, 1, axis=0)])))[:, dyes]
    assert (found < 0).all()
    coloured = stained.copy()
    coloured[20:30, 20:30, 0] //= 2
    assert ood.quantities(prepared(coloured[None]))[0, dyes] > 2


def test_a_feature_that_never_fires_does_no_harm(train, others):
    features = features_of(train)
    features[:, 3] = 0
    dead = ood.Seen(prepared(train), features)
    assert np.isfinite(ood.distances(ood.fit(dead, others), dead)).all()


def test_a_batch_that_looks_like_no_patient_is_foreign(fitted):
    random = np.random.default_rng(1)
    # Twelve patients who differ in look, with 60 cells each that differ a little.
    means = random.normal(size=(12, 13))
    patient = np.repeat([f"P{number}" for number in range(12)], 60)
    look = np.pad(np.repeat(means, 60, axis=0), ((0, 0), (0, 3))) + random.normal(0, 0.1, (720, 16))
    check = ood.with_patients(fitted, look.astype(np.float32), patient)

    def foreign(mean: np.ndarray, cells: int = 50) -> bool | None:
        looks = ood.Looks()
        looks.add(np.pad(np.tile(mean, (cells, 1)), ((0, 0), (0, 3))).astype(np.float32))
        return ood.foreign(check, looks)

    assert not any(foreign(mean) for mean in means)
    assert foreign(means[0] + 10)
    assert foreign(means[0] + 10, cells=49) is None
    assert ood.foreign(ood.from_bytes(ood.to_bytes(check)), ood.Looks(50 * (means[0] + 10), 50))


def test_the_farthest_patients_distance_from_the_others_is_the_limit_of_a_batch(fitted):
    """Of a patient's 99 cells, only 50 evenly spaced ones count: here the others are outliers."""
    means = np.random.default_rng(2).normal(size=(12, 13))
    look = means[:, None] + np.resize([0, 100], 99)[:, None]
    look = np.pad(look.reshape(-1, 13), ((0, 0), (0, 3))).astype(np.float32)
    check = ood.with_patients(fitted, look, np.repeat(np.arange(12).astype(str), 99))

    def far(point: np.ndarray, others: np.ndarray) -> float:
        centre, spread = others.mean(axis=0), others.std(axis=0)
        fit = LedoitWolf(assume_centered=True).fit((others - centre) / spread)
        return float(np.sqrt(fit.mahalanobis((point - centre)[None] / spread)[0]))

    alone = [far(means[number], np.delete(means, number, axis=0)) for number in range(12)]
    assert check.patients_limit == pytest.approx([max(alone)], rel=1e-4)


@pytest.mark.parametrize(("far", "foreign"), [(5.0, False), (5.001, True)])
def test_a_batch_as_far_as_the_limit_is_not_foreign(fitted, far, foreign):
    limit = {
        "patients_centre": np.ones(13, np.float32),
        "patients_whitening": np.eye(13, dtype=np.float32),
        "patients_limit": np.full(1, 5, np.float32),
    }
    mean = 1 + far * (np.eye(13)[0] * 0.6 + np.eye(13)[1] * 0.8)
    assert ood.foreign(dataclasses.replace(fitted, **limit), ood.Looks(50 * mean, 50)) is foreign


@pytest.mark.parametrize(("patients", "cells", "says"), [(9, 60, None), (12, 49, None), (10, 50, True)])
def test_few_patients_or_patients_of_few_cells_say_nothing_of_batches(fitted, patients, cells, says):
    look = np.random.default_rng(1).normal(size=(patients * cells, 16)).astype(np.float32)
    patient = np.repeat(np.arange(patients).astype(str), cells)
    check = ood.with_patients(fitted, look, patient)
    assert ood.foreign(check, ood.Looks(np.full(13, 1e6), 100)) is says


def test_a_check_of_an_earlier_version_turns_away_by_three_distances(train):
    """The features (3, 0, 4) lie at distance 5, which is the limit; 1 % farther, the cell is rejected."""
    look = ood.quantities(prepared(train[:1]))[0]
    check = ood.Check(
        least=look[:12] - 1,
        most=look[:12] + 1,
        look_centre=look[:12],
        look_whitening=np.eye(12, dtype=np.float32) * 2,
        features_centre=np.zeros(3, np.float32),
        features_whitening=np.eye(3, dtype=np.float32),
        limits=np.array([0.1, 4.0, 5.0]),
    )
    again = ood.from_bytes(ood.to_bytes(check))
    features = np.array([[3, 0, 4]], np.float32)
    near, far = (ood.Seen(prepared(train[:1]), features * times) for times in (1, np.float32(1.01)))
    assert ood.distances(again, near)[0] == pytest.approx([-0.5, 0, 5], abs=1e-3)
    assert ood.reasons(again, near) == (None,)
    assert ood.reasons(again, far) != (None,)
