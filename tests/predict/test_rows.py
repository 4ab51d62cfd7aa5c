"""Rows of predictions: category, status and reason of an image; no text that a spreadsheet would run."""

import io

import numpy as np
import pytest
from PIL import Image

from malaria import bundle, predict
from malaria.bundle import ood
from malaria.predict import rows


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_category_is_that_at_the_threshold_that_was_asked_for(model_bundle, pngs):
    model = bundle.load(model_bundle, threads=1)
    items = [predict.Item("a.png", lambda: pngs[0])]
    (found,) = predict.predict(model, items)
    p = found.p_parasitized
    assert (found.category, found.status, 0 < p < 0.5) == ("Uninfected", "ok", True)
    for threshold, category in ((p, "Parasitized"), (np.nextafter(p, 1), "Uninfected")):
        assert next(predict.predict(model, items, threshold=threshold)).category == category


def test_what_is_no_cell_has_a_reason_and_no_probability(gated_bundle, pngs):
    pages = io.BytesIO()
    page = Image.fromarray(np.full((60, 60, 3), 255, np.uint8))
    page.save(pages, "TIFF", save_all=True, append_images=[page])
    items = [
        predict.Item(name, lambda held=held: held)
        for name, held in (("w", pages.getvalue()), ("c", pngs[0]), ("e", b""))
    ]
    found = list(predict.predict(bundle.load(gated_bundle, threads=1), items))
    assert [row.status for row in found] == ["rejected", "ok", "unreadable"]
    assert [row.p_parasitized is None for row in found] == [True, False, True]
    assert [row.category is None for row in found] == [True, False, True]
    assert found[0].reason.startswith("too little black")
    assert found[0].reason.endswith("; page 1 of 2")


def test_the_look_of_judged_cells_alone_is_added_up(gated_bundle, pngs):
    model = bundle.load(gated_bundle, threads=1)
    white = png(np.full((60, 60, 3), 255, np.uint8))
    held = [pngs[0], white, b"", pngs[1]]
    items = [predict.Item(f"{at}.png", lambda content=content: content) for at, content in enumerate(held)]
    looks = ood.Looks()
    assert [row.status for row in predict.predict(model, items, looks=looks)].count("ok") == 2
    judged = model.run([np.asarray(Image.open(io.BytesIO(content))) for content in pngs[:2]])
    assert looks.cells == 2
    assert looks.total == pytest.approx(judged.look[:, :13].sum(axis=0), rel=1e-5)


@pytest.mark.parametrize(("mib", "at_once"), [(64, 4), (100, 3)])
def test_few_large_pictures_are_held_in_memory_at_once(model_bundle, pngs, mib, at_once):
    taken = []

    def large():
        for number in range(100):
            taken.append(number)
            yield predict.Item(f"{number}.png", lambda: pngs[0], held=mib * 2**20)

    found = predict.predict(bundle.load(model_bundle, threads=1), large())
    assert next(found).path == "0.png"
    # Two chunks, this one and the next, each of 256 MiB or a little more.
    assert len(taken) == 2 * at_once
    assert [row.path for row in found] == [f"{number}.png" for number in range(1, 100)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("'=1", "''=1"),
        ("\uff1d1+1.png", "'\uff1d1+1.png"),
        ("-1", "'-1"),
        ("+1", "'+1"),
        ("\ta", "'\ta"),
        ("\r=", "'\r="),
        ("@a", "'@a"),
        ("a=1", "a=1"),
        ("'a", "'a"),
    ],
)
def test_what_a_spreadsheet_takes_for_a_formula_gets_an_apostrophe(text, shown):
    assert rows.escaped(text) == shown
