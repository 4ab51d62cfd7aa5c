"""Open and check a bundle for the app, with its card, figures and origin."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from malaria import RESEARCH, __version__, bundle
from malaria.bundle import Bundle, Record
from malaria.cells import images
from malaria.errors import UserError

from . import git_origin, verdict
from .inference import Answer, Judge


@dataclass(frozen=True)
class Model:
    """A served bundle, and all that the page shows about it.

    card: Markdown.
    figures: None if the bundle was written without them.
    scores: the scores in `figures` that count: of the test cells, or of all cells out of fold.
    since: when it was opened, ISO 8601.
    newer_is_damaged: whether it is still served because the newer bundle cannot be.
    """

    bundle: Bundle
    judge: Judge
    points: tuple[verdict.Point, ...]
    origin: git_origin.Origin
    card: str
    figures: dict[str, Any] | None
    scores: dict[str, Any] | None
    since: str
    newer_is_damaged: bool = False

    @property
    def record(self) -> Record:
        return self.bundle.record

    @property
    def network(self) -> str:
        """The network's name: the first 8 digits of its hash."""
        return f"network {self.record.hashes['network'][:8]}"

    @property
    def title(self) -> str:
        """This version's name for people: as the user named it, a tag, the commit, or the network's hash."""
        commit = f"commit {self.origin.revision[:8]}" if self.origin.revision else self.network
        return next(filter(None, (self.origin.named, *reversed(self.origin.tags))), commit)

    def at(self, point: verdict.Point) -> verdict.Point:
        """This model's operating point that corresponds to `point`, one of the served model's."""
        return verdict.matching(point, self.points)

    def verdict_of(self, answer: Answer, point: verdict.Point) -> verdict.Verdict:
        """The verdict that follows from this model's answer at its operating point `at(point)`."""
        return verdict.of(answer, self.at(point), self.record.synthetic)

    def answer(self, pixels: images.Pixels) -> Answer:
        """The model's answer for one crop, uint8 (h, w, 3)."""
        return self.judge.ask([self.bundle.prepare(pixels)])[0]

    def knows(self, pixels: images.Pixels) -> bool | None:
        """Whether the model was made with this cell, uint8 (h, w, 3); None if the bundle does not say."""
        known = self.bundle.known([self.bundle.prepare(pixels).pixels])
        return None if known is None else bool(known[0])


def open_model(folder: Path, origin: git_origin.Origin | None = None, *, batch: int = 32) -> Model:
    """Open a bundle, with its card, figures and origin.

    Args:
        origin: the commit that the bundle comes from; None asks git.
        batch: most cells judged in one go, before the next request has its turn.

    Raises:
        UserError: the bundle is missing, incomplete, tampered with or of an unknown schema.
    """
    loaded = bundle.load(folder)
    record = loaded.record
    figures = json.loads(bundle.read_part(folder, record, "figures") or "null")
    scores = figures and figures["sides"][figures["judged"]]
    card = folder / bundle.CARD
    if not card.is_file():
        raise UserError(f"{folder} is incomplete, without {bundle.CARD}: fetch or export the bundle again.")
    return Model(
        bundle=loaded,
        judge=Judge(loaded, batch),
        points=verdict.points(record, scores),
        origin=origin or git_origin.of(folder),
        card=card.read_text(encoding="utf-8"),
        figures=figures,
        scores=scores,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def with_distinct_titles(model: Model, compared: Model) -> list[Model]:
    """Both models under different titles: equal titles get the network's hash appended."""
    if model.title != compared.title:
        return [model, compared]
    titled = ((version, f"{version.title} ({version.network})") for version in (model, compared))
    return [replace(version, origin=replace(version.origin, named=title)) for version, title in titled]


def info(model: Model) -> dict[str, Any]:
    """Facts about a model, for `/model_info` and `/version`."""
    fields = {"name", "data_source", "synthetic", "precision", "input_size", "labels", "positive", "hashes"}
    return {
        "app": __version__,
        **model.record.model_dump(mode="json", include=fields),
        "version": model.title,
        "revision": model.origin.revision,
        "date": model.origin.date,
        "tags": list(model.origin.tags),
        "operating_points": [asdict(point) for point in model.points],
        "manifest": model.bundle.manifest,
        "since": model.since,
        "newer_is_damaged": model.newer_is_damaged,
        "figures": model.scores,
        "note": RESEARCH,
    }
