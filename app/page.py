"""The page: what stands where, and which function answers what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from malaria import labels
from malaria.cells import images

from . import api, batches, cells, pictures, rendering, uploads, verdict
from .gradio_import import gr
from .inference import Answer
from .model import Model

# Drawn by turns with and without a parasite. The seed is one whose cells look much as real ones do, also to
# a gate fitted on those.
EXAMPLES = pictures.drawn(6, seed=30)

# What a visitor's session keeps (thumbnails and answers) goes with his uploads.
_KEPT_SECONDS = 3600

# The curves of `figures.json`: a name there, a title, and the columns from left to right and upwards.
_CURVES = (
    ("roc", "ROC curve", "one_minus_specificity", "sensitivity"),
    ("precision_recall", "Precision and recall", "sensitivity", "precision"),
    ("reliability", "Calibration", "mean_probability", "share_parasitized"),
)

# Gradio knows by a parameter's default that a function wants to report how far it is.
_PROGRESS = gr.Progress()


@dataclass(frozen=True)
class Limits:
    """How much at once: events judged side by side, and events that may wait; how long uploads are kept.

    A request's body has `body_seconds` to come; all plain ones that are held at a time have `bodies` bytes.
    A probe waits `probe_seconds` for its turn. Uploads are kept in `room` bytes. `hosts`, `frames` and
    `account` as Firewall has them; `root_path` is the path at which a proxy in front shows the page.
    """

    at_once: int = 4
    waiting: int = 100
    kept_seconds: int = _KEPT_SECONDS
    body_seconds: float = 60
    bodies: int = 256 * 2**20
    probe_seconds: float = 5
    room: int = 2**30
    hosts: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    account: str = ""
    root_path: str | None = None


@dataclass(frozen=True)
class Seen:
    """The cell in view: its picture, and answers and maps of each model; `refused` in place of them.

    Picture and maps are data URIs: a session keeps no pixels.
    """

    picture: str = ""
    answers: tuple[Answer, ...] = ()
    heats: tuple[str, ...] = ()
    refused: str = ""


def theme() -> Any:
    """Colours and fonts that every machine has: no font is fetched."""
    fonts = [gr.themes.Font(name) for name in ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")]
    return gr.themes.Default(
        font=fonts, font_mono=[gr.themes.Font("monospace")], primary_hue="blue", neutral_hue="zinc"
    )


def css() -> str:
    """The page's style sheet, with the examples' pictures."""
    pictured = [
        f"#example-{number} {{ background-image: url({pictures.data_uri(pixels, 72)}); }}"
        for number, (pixels, _) in enumerate(EXAMPLES, start=1)
    ]
    return rendering.text("page.css") + "\n".join(pictured)


def head() -> str:
    """The page's style, in the page itself (Gradio's `css` would rewrite the selectors)."""
    return f"<style>{css()}</style>"


def build(models: Sequence[Model], source: cells.Source, folder: Path, limits: Limits) -> Any:
    """The page of a model, and one compared with it, as gr.Blocks; `folder` is where uploads lie."""
    model, compared = models[0], len(models) > 1
    respond = Responses(models, source, folder)
    named = {"api_visibility": "undocumented", "concurrency_id": "judge"}
    with gr.Blocks(
        title="Malaria cells",
        analytics_enabled=False,
        delete_cache=(min(300, limits.kept_seconds), limits.kept_seconds),
    ) as page:
        seen, batch, cards = (
            gr.State(value, time_to_live=limits.kept_seconds) for value in (None, None, None)
        )
        gr.HTML(rendering.header(models))
        with gr.Tabs():
            with gr.Tab("One cell"), gr.Row():
                # Two answers stand beside each other where there is room for them.
                with gr.Column(scale=1 if compared else 2, min_width=280):
                    image = gr.Image(
                        sources=["upload", "clipboard"], height=260, buttons=[],
                        label="One cell: drop, upload, paste", elem_id="cell",
                    )  # fmt: skip
                    gr.Markdown("Or try an example. **These are synthetic cells**, drawn by the program:")
                    with gr.Row():
                        examples = [
                            gr.Button(
                                f"Example {number}", elem_id=f"example-{number}", elem_classes="mc-example"
                            )
                            for number in range(1, len(EXAMPLES) + 1)
                        ]
                with gr.Column(scale=3, min_width=300):
                    cell = gr.HTML("<p>The answer will stand here.</p>", elem_id="answer")
            with gr.Tab("Many cells"):
                files = gr.File(
                    file_count="multiple",
                    label=f"Images, or zips of them: up to {uploads.MOST_CELLS:,} cells, "
                    f"{uploads.MOST_BYTES // 2**20} MB a file",
                    height=160,
                )
                judge = gr.Button("Judge these cells", variant="primary")
                differ = ", or on which the versions differ" if compared else ""
                unsure = gr.Checkbox(label=f"Show only cells that need a second look{differ}", value=False)
                totals = gr.HTML("<p>Totals and a table will stand here.</p>", elem_id="totals")
                columns = rendering.columns(models)
                table = gr.Dataframe(
                    headers=list(columns), datatype=list(columns.values()), interactive=False, wrap=True,
                    label="Cells", elem_id="table", buttons=[], visible=False,
                )  # fmt: skip
            with gr.Tab("Test it"):
                gr.Markdown(
                    "See how often the model is right, and how often you are. A cell's label is hidden until "
                    "you have said what you call it."
                )
                with gr.Row():
                    say = [
                        gr.Button(f"I call it {label}") for label in (labels.PARASITIZED, labels.UNINFECTED)
                    ]
                    skip = gr.Button("Just show me")
                    everything = gr.Button("Show all")
                    new = gr.Button("Draw new cells", variant="primary")
                board = gr.HTML("<p>Press “Draw new cells” to begin.</p>", elem_id="board")
            with gr.Tab("About"):
                gr.HTML(rendering.about(models))
                for one in models:
                    curves(one)
                gr.Markdown(model.card, elem_id="card")
        with gr.Accordion("Settings", open=False):
            point = gr.Radio(
                [(verdict.cost(point, model.points), place) for place, point in enumerate(model.points)],
                value=model.points.index(verdict.HALF), label="Operating point", elem_id="operating-point",
                info="From which P on a cell is called Parasitized, in every tab. A higher one calls fewer "
                "healthy cells so, and misses more parasites.",
            )  # fmt: skip
        gr.HTML(f'<p class="mc-research">{verdict.RESEARCH}</p>', elem_id="research")

        shown = [cell, seen]
        # Gradio decodes no file: what it hands on is where uploads lie.
        image.change(
            respond.cell, [image, point], shown, api_name="show_cell", scroll_to_output=True,
            preprocess=False, **named,
        )  # fmt: skip
        for number, button in enumerate(examples):
            button.click(
                lambda number=number: EXAMPLES[number][0],
                None,
                image,
                api_name=f"show_example_{number + 1}",
                **named,
            )
        judge.click(
            respond.batch, [files, point, unsure], [totals, table, batch], api_name="show_many",
            preprocess=False, **named,
        )  # fmt: skip
        unsure.change(respond.table, [batch, point, unsure], [totals, table], api_name="show_table", **named)
        played = [board, cards]
        new.click(respond.draw, point, played, api_name="draw_cells", **named)
        for button, label in zip(say, (labels.PARASITIZED, labels.UNINFECTED), strict=True):
            button.click(
                lambda cards, point, label=label: respond.guess(cards, point, label),
                [cards, point], played, api_name=f"call_{label.lower()}", **named,
            )  # fmt: skip
        skip.click(respond.skip, [cards, point], played, api_name="show_label", **named)
        everything.click(respond.reveal, [cards, point], played, api_name="show_labels", **named)
        point.change(
            respond.point, [point, seen, batch, unsure, cards], [cell, totals, table, board],
            api_name="operating_point", show_progress="hidden", **named,
        )  # fmt: skip

        for name, answer in api.endpoints(models, folder).items():
            gr.api(answer, api_name=name, concurrency_id="judge")
    page.queue(max_size=limits.waiting, default_concurrency_limit=limits.at_once, api_open=False)
    # A session keeps a batch's thumbnails, up to 2 MB, and an answer as large that nobody came to read.
    page.state_session_capacity = 200
    page._queue.pending_messages_per_session.max_size = 4 * (limits.waiting + limits.at_once)
    return page


def curves(model: Model) -> None:
    """The curves of a model's figures, where its bundle has them."""
    if model.figures is None:
        return
    with gr.Row():
        for name, title, x, y in _CURVES:
            # Vega draws from left to right, and cells of the same x as they come.
            curve = pd.DataFrame({axis: model.figures["plots"][name][axis] for axis in (x, y)})
            gr.LinePlot(
                curve.sort_index(ascending=x != "sensitivity"), x, y, title=title,
                x_title=x.replace("_", " "), y_title=y.replace("_", " "),
                x_lim=[-0.02, 1.02], y_lim=[-0.02, 1.02], height=260, min_width=240,
            )  # fmt: skip


class Responses:
    """What the page's parts answer; each takes and gives the values of Gradio's components."""

    def __init__(self, models: Sequence[Model], source: cells.Source, folder: Path) -> None:
        self.models, self.source, self.folder = models, source, folder
        self.model = models[0]

    def at(self, place: object) -> verdict.Point:
        """The operating point at a place of the list; gr.Error where there is none."""
        if not isinstance(place, int | float) or not 0 <= place < len(self.model.points):
            raise gr.Error("There is no such operating point.", print_exception=False)
        return self.model.points[int(place)]

    def cell(self, file: object, place: object) -> tuple[str, Seen | None]:
        """The answer on one uploaded cell."""
        point = self.at(place)
        if file is None:
            return "<p>The answer will stand here.</p>", None
        try:
            pixels = images.read(uploads.sent(file, self.folder)[1], self.model.limits).pixels
        except images.Unreadable as error:
            seen = Seen(refused=error.reason)
            return self.shown(seen, point), seen
        answers = tuple(model.answer(pixels) for model in self.models)
        heats = tuple(
            "" if answer.rejected else pictures.data_uri(model.heat(pixels), pictures.SHOWN)
            for model, answer in zip(self.models, answers, strict=True)
        )
        seen = Seen(pictures.data_uri(pixels, pictures.SHOWN), answers, heats)
        return self.shown(seen, point), seen

    def shown(self, seen: Seen, point: verdict.Point) -> str:
        if seen.refused:
            return rendering.refusal(verdict.unreadable(seen.refused))
        return rendering.cell(self.models, seen.picture, seen.answers, seen.heats, point)

    def batch(
        self, files: Sequence[object] | None, place: object, unsure: bool, progress: Any = _PROGRESS
    ) -> tuple[Any, ...]:
        """The answers on many uploaded files."""
        self.at(place)
        if not files:
            return "<p>Choose some files first.</p>", gr.skip(), None
        with api.in_gradio():
            own = [uploads.sent(file, self.folder) for file in files]
        total = uploads.count([file for _, file in own])
        judged = []
        for one in batches.judge(self.models, uploads.many(own, self.model.limits)):
            judged.append(one)
            progress((len(judged), max(total, len(judged))), unit="cells")
        return *self.table(judged, place, unsure), judged

    def table(self, batch: list[batches.Judged] | None, place: object, unsure: bool) -> tuple[Any, Any]:
        """Totals and table again, after a change of what they should show."""
        point = self.at(place)
        if batch is None:
            return gr.skip(), gr.skip()
        totals, rows = rendering.batch(self.models, batch, point, unsure)
        return totals, gr.Dataframe(rows, visible=bool(rows))

    def draw(self, place: object) -> tuple[str, tuple[cells.Card, ...]]:
        """A new round of labelled cells."""
        return self.board(cells.draw(self.source, self.model), place)

    def guess(
        self, cards: tuple[cells.Card, ...] | None, place: object, label: str | None
    ) -> tuple[str, tuple[cells.Card, ...]]:
        """The current cell, opened with a guess."""
        return self.board(cells.guess(cards, label), place) if cards else self.draw(place)

    def skip(self, cards: tuple[cells.Card, ...] | None, place: object) -> tuple[str, tuple[cells.Card, ...]]:
        """The current cell, opened without a guess."""
        return self.guess(cards, place, None)

    def reveal(
        self, cards: tuple[cells.Card, ...] | None, place: object
    ) -> tuple[str, tuple[cells.Card, ...]]:
        """All cells, opened."""
        return self.board(cells.reveal(cards), place) if cards else self.draw(place)

    def board(self, cards: tuple[cells.Card, ...], place: object) -> tuple[str, tuple[cells.Card, ...]]:
        return rendering.round_of(self.model, self.source, cards, self.at(place)), cards

    def point(
        self,
        place: object,
        seen: Seen | None,
        batch: list[batches.Judged] | None,
        unsure: bool,
        cards: tuple[cells.Card, ...] | None,
    ) -> tuple[Any, ...]:
        """Every view at another operating point; views that show nothing stay as they are."""
        point = self.at(place)
        return (
            gr.skip() if seen is None else self.shown(seen, point),
            *self.table(batch, place, unsure),
            gr.skip() if cards is None else self.board(cards, place)[0],
        )
