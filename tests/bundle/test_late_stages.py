"""Late stages are drawn within cells, and a check that has seen some takes others."""

import numpy as np
import pytest

from malaria.bundle import late_stages, not_cells, ood
from malaria.cells import images, synthetic
from malaria.cells.prepare import AS_IS, OWN, prepare
from malaria.cells.prepared import Prepared


def healthy(seed: int, count: int) -> list[Prepared]:
    random = np.random.default_rng(seed)
    return [prepare(synthetic.draw(random, synthetic.stain(random), False), 50, OWN) for _ in range(count)]


@pytest.fixture(scope="module")
def cells():
    return healthy(1, 150)


@pytest.mark.parametrize("colour", [AS_IS, OWN])
def test_the_same_seed_draws_the_same_parasites_and_only_within_the_cell(cells, colour):
    one, same, other = (late_stages.drawn(cells[:20], colour, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a.pixels, b.pixels) and a.own == b.own for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))
    for before, after in zip(cells, one, strict=False):
        assert after.pixels[before.pixels.max(axis=2) == 0].max() == 0


def test_a_parasite_that_fills_the_cell_changes_the_colour_that_it_had(cells):
    drawn = late_stages.drawn(cells, OWN, 3)
    darker = np.subtract([cell.own for cell in cells], [cell.own for cell in drawn]).mean(axis=0)
    # Cytoplasm is blue: it takes light, and most of it red.
    assert darker.min() > 0
    assert darker.argmax() == 0


def test_a_check_that_has_seen_some_takes_others(cells):
    drawn = not_cells.all_kinds([cell.pixels for cell in cells[:20]], 4, seed=5)
    others = [prepare(images.resize(one, 50), 50, OWN) for kind in drawn.values() for one in kind]
    asked = late_stages.drawn(healthy(2, 100), OWN, 8)

    def turned_away(learnt: list[Prepared]) -> float:
        check = ood.fit(ood.Seen(learnt, features_of(learnt)), ood.Seen(others, features_of(others)))
        return np.mean([why is not None for why in ood.reasons(check, asked, features_of(asked))])

    assert turned_away([*cells, *late_stages.drawn(cells, OWN, 7)]) < turned_away(cells) / 3


def features_of(cells: list[Prepared]) -> np.ndarray:
    """Stands in for a network: one picture in five along each side, float32 (n, 300)."""
    return np.stack([cell.pixels[::5, ::5].ravel() for cell in cells]).astype(np.float32)
