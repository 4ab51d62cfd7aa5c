"""The page's layout, and the functions behind its components."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from malaria import labels
from malaria.cells import images

from . import api, batches, cells, decoder, pictures, rendering, uploads, verdict
from .firewall import Limits
from .gradio_import import gr
from .model import Model

# The seeds are chosen: these cells look real, also to an out-of-distribution check fitted on real cells.
EXAMPLES = {
    "Ring form": pictures.cell(34, 4),
    "Gametocyte": pictures.cell(62, 10),
    "Healthy": pictures.cell(31, 7),
    "Platelet on top": pictures.cell(36, 5),
    "Stain on top": pictures.cell(58, 5),
    "Out of focus": pictures.cell(59, 0),
}

# The lines of a curve, with their colours: the estimate, and the ends of its interval.
_LINES = {"measured": "#1d4ed8", "95 % from": "#93a8d8", "95 % to": "#93a8d8"}

# A parameter with this default tells Gradio that the function reports its progress.
_PROGRESS = gr.Progress()


@dataclass(frozen=True)
class Shown:
    """The cells in view, their `files` (none for an example), and the index of the one shown large.

    A session keeps their thumbnails, and no other pixels. `asked`: the operating point's index and the filter
    with which uploads were sent.
    """

    judged: tuple[batches.Judged, ...] = ()
    files: uploads.Files = ()
    number: int | None = None
    asked: tuple[object, bool] | None = None


# A round of labelled cells, and where they were drawn from.
Cards = tuple[cells.Card, ...]
Round = tuple[cells.Source, Cards]


def theme() -> Any:
    """Gradio's theme with fonts that every machine has, so that the page fetches none."""
    fonts = ["Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    return gr.themes.Default(font=fonts, font_mono="monospace", primary_hue="blue", neutral_hue="zinc")


def head() -> str:
    """HTML with the page's style, the examples' pictures and the script.

    Gradio's own option `css` would rewrite the selectors.
    """
    pictured = [
        f"#example-{number} {{ background-image: url({pictures.data_uri(pixels, 72)}); }}"
        for number, pixels in enumerate(EXAMPLES.values(), start=1)
    ]
    style = rendering.text("page.css") + "\n".join(pictured)
    return f"<style>{style}</style><script>{rendering.text('page.js')}</script>"


def build(models: Sequence[Model], source: cells.Source, folder: Path, limits: Limits) -> Any:
    """Build the page, as gr.Blocks: `models` are one model or two to compare, `folder` is for uploads."""
    model, compared = models[0], len(models) > 1
    respond = Responses(models, source, folder)
    with gr.Blocks(title="Malaria cells") as page:
        shown, game = (gr.State(at_first, time_to_live=limits.keep) for at_first in (Shown(), None))
        gr.HTML(rendering.header(models))
        with gr.Tabs():
            with gr.Tab("Judge cells"):
                with gr.Row(elem_id="bring"):
                    files = gr.UploadButton(
                        "Choose cells", file_count="multiple", variant="primary", elem_id="upload"
                    )
                    gr.HTML(rendering.render("limits.html.j2", uploads=uploads))
                with gr.Row(elem_id="examples"):
                    examples = [
                        gr.Button(name, elem_id=f"example-{number}", elem_classes="mc-example", min_width=90)
                        for number, name in enumerate(EXAMPLES, 1)
                    ]
                totals = gr.HTML(elem_id="totals")
                differ = ", or on which the versions differ" if compared else ""
                unsure = gr.Checkbox(
                    label=f"Show only cells that need a second look{differ}", visible=False, elem_id="unsure"
                )
                columns = rendering.columns(models)
                kinds, widths = zip(*columns.values(), strict=True)
                table = gr.Dataframe(
                    headers=list(columns), datatype=list(kinds), column_widths=list(widths),
                    label="Cells: press one to see it large", elem_id="table",
                    interactive=False, buttons=[], visible=False,
                )  # fmt: skip
                further = gr.Button("Next to look at", visible=False, elem_id="next")
                cell = gr.HTML(elem_id="answer")
            with gr.Tab("Test it"):
                gr.Markdown(
                    f"See how often {model.title if compared else 'the model'} is right, and how often you "
                    "are. A cell's label is hidden until you have said what you call it."
                )
                with gr.Row():
                    say: dict[str | None, Any] = {
                        label: gr.Button(f"I call it {label}") for label in reversed(labels.LABELS)
                    }
                    say[None] = gr.Button("Just show me")
                    everything = gr.Button("Show all")
                    new = gr.Button("Draw new cells", variant="primary")
                    synthetic = gr.Button("Draw synthetic cells", visible=bool(source))
                board = gr.HTML("<p>Press “Draw new cells” to begin.</p>", elem_id="board")
            with gr.Tab("About"):
                for one in models:
                    gr.Markdown(rendering.render("about.md.j2", model=one), elem_classes="mc-facts")
                    curves(one)
                    gr.Markdown(one.card, elem_classes="mc-card")
        with gr.Accordion("Settings", open=False):
            point = gr.Radio(
                [(verdict.cost(point, model.points), place) for place, point in enumerate(model.points)],
                value=model.points.index(verdict.HALF), label="Operating point", elem_id="operating-point",
                info=rendering.render("operating_point.html.j2", models=models),
            )  # fmt: skip
        with gr.Accordion("For programs", open=False):
            gr.Markdown(rendering.text("programs.md"))

        def ask(event: Any, answer: Any, inputs: Any, outputs: Any, name: str, **more: Any) -> Any:
            named = {"api_name": name, "api_visibility": "undocumented", "concurrency_id": "judge"}
            return event(api.in_gradio()(answer), inputs, outputs, **named, **more)

        look = {"fn": None, "js": "look", "api_visibility": "private"}
        views, large, played = [totals, unsure, table, further, cell, shown], [cell, shown], [board, game]
        # Without `preprocess` Gradio decodes no file, but passes on the paths of the uploads.
        sent, quiet = [files, point, unsure], {"show_progress": "hidden"}
        settings, all_views = [point, shown, unsure, game], [*views, board]
        # What is asked for last is shown last.
        last = {"preprocess": False, "trigger_mode": "always_last"}
        judging = ask(files.upload, respond.show, sent, views, "show_cells", **last)
        ask(judging.then, respond.late, settings, all_views, "settings_of_cells", **quiet).then(**look)
        for number, button in enumerate(examples, 1):
            example, named = partial(respond.example, button.value), f"show_example_{number}"
            ask(button.click, example, [point], views, named, cancels=[judging]).then(**look)
        ask(table.select, respond.row, [shown, point], large, "show_row", **quiet).then(**look)
        ask(further.click, respond.next, [shown, point], large, "show_next", **quiet).then(**look)
        ask(new.click, partial(respond.draw, source), [point], played, "draw_cells")
        ask(synthetic.click, partial(respond.draw, ()), [point], played, "draw_synthetic_cells")
        for called, button in say.items():
            name = f"call_{called.lower()}" if called else "show_label"
            move = partial(respond.play, partial(cells.guess, label=called))
            ask(button.click, move, [game, point], played, name)
        ask(everything.click, partial(respond.play, cells.reveal), [game, point], played, "show_labels")
        chosen = partial(gr.on, [point.change, unsure.change])
        ask(chosen, respond.again, settings, all_views, "operating_point", **quiet)

        for name, answer in api.endpoints(models, folder).items():
            gr.api(api.in_gradio()(answer), api_name=name, concurrency_id="judge")
    page.queue(max_size=limits.queue, default_concurrency_limit=limits.concurrency, api_open=False)
    # Each session keeps a batch's thumbnails and answers, up to 5 MB, and views that were never read.
    page.state_session_capacity = 100
    page._queue.pending_messages_per_session.max_size = 4 * (limits.queue + limits.concurrency)
    # s. Gradio looks for work a thousand times a second and for progress a hundred times, which takes 3 % of
    # a core where there is none.
    page._queue.sleep_when_free, page._queue.progress_update_sleep_when_free = 0.005, 0.1
    return page


def curves(model: Model) -> None:
    """Plot the operating points' costs and P's calibration, with intervals, if the bundle has figures."""
    if model.figures is None or model.scores is None:
        return
    scores, plots = model.scores, model.figures["plots"]
    points = [scores, *(at for name, at in scores.items() if name.startswith("at_"))]
    costs = sorted(
        (1 - at["specificity"]["value"], *(at["sensitivity"][part] for part in ("value", "low", "high")))
        for at in points
        if at["sensitivity"]["low"] is not None
    )
    bins = zip(*plots.get("scores", {}).values(), strict=True)
    rated = ((p, infected, infected + healthy) for p, infected, healthy in bins if infected + healthy)
    true = [(p, infected / cells, *batches.wilson(infected, cells)) for p, infected, cells in rated]
    found, healthy = "of 100 parasitised cells, found", "of 100 healthy cells, called Parasitized"
    with gr.Row():
        _plot("What the operating points cost", healthy, found, costs)
        _plot("How well P is calibrated", "P, of 100", "of 100 such cells, parasitised", true)


def _plot(title: str, x: str, y: str, points: Sequence[tuple[float, ...]]) -> None:
    """Plot a curve with its interval through two points or more: (x, estimate, low, high), in [0, 1]."""
    if len(points) < 2:
        return
    wide = 100 * pd.DataFrame(points, columns=[x, *_LINES])
    lines = wide.melt(x, var_name="line", value_name=y)
    limits = [[lines[axis].min() - room, lines[axis].max() + room] for axis, room in ((x, 1), (y, 2))]
    gr.LinePlot(
        lines, x, y, title=title, x_lim=limits[0], y_lim=limits[1], height=280, min_width=280,
        color="line", color_title=" ", color_map=_LINES,
    )  # fmt: skip


class Responses:
    """The functions behind the page's components, whose values they take and return."""

    def __init__(self, models: Sequence[Model], source: cells.Source, folder: Path) -> None:
        self.models, self.source, self.folder = models, source, folder
        self.model = models[0]

    def at(self, place: object) -> verdict.Point:
        """The operating point with index `place`; gr.Error if there is none."""
        if not isinstance(place, int | float) or not 0 <= place < len(self.model.points):
            raise gr.Error("There is no such operating point.", print_exception=False)
        return self.model.points[int(place)]

    def show(
        self, files: Sequence[object] | None, place: object, unsure: bool, progress: Any = _PROGRESS
    ) -> tuple[Any, ...]:
        """Judge uploaded files, and show the answers."""
        point = self.at(place)
        own = tuple(uploads.sent(file, self.folder) for file in files or ())
        total = min(uploads.count([file for _, file in own]), uploads.MOST_CELLS)
        judged, gone = [], api.left()
        with decoder.fresh(self.model.bundle.limits, gone) as decode:
            for one in batches.judge(self.models, uploads.many(own, decode)):
                judged.append(one)
                progress((len(judged), max(total, len(judged))), unit="cells")
                if gone():
                    break
        number = 0 if len(judged) == 1 else None
        return self.views(Shown(tuple(judged), own, number, (place, unsure)), point, unsure)

    def example(self, name: str, place: object) -> tuple[Any, ...]:
        """Judge an example, and show the answer."""
        drawn = uploads.Upload(name, lambda: images.Crop(EXAMPLES[name]))
        return self.views(Shown(tuple(batches.judge(self.models, [drawn])), number=0), self.at(place), False)

    def views(self, shown: Shown, point: verdict.Point, unsure: bool) -> tuple[Any, ...]:
        """Values of all components that show the cells; a single cell has neither totals nor a table."""
        many = len(shown.judged) > 1
        outcomes = batches.outcomes(self.models, shown.judged, point)
        totals, rows = rendering.batch(outcomes, shown.judged, unsure) if many else ("", [])
        look = many and bool(batches.to_look_at(outcomes, shown.judged))
        return (
            totals,
            gr.Checkbox(visible=many),
            gr.Dataframe(rows, visible=bool(rows)),
            gr.Button(visible=look),
            self.cell(shown, point),
            shown,
        )

    def cell(self, shown: Shown, point: verdict.Point) -> str:
        """HTML of the cell that is shown large; empty if there is none."""
        if shown.number is None:
            return ""
        one, many = shown.judged[shown.number], len(shown.judged)
        place = f"Cell {shown.number + 1:,} of {many:,}" if many > 1 else ""
        try:
            if not one.answers:
                raise images.Unreadable(one.reason)
            if one.name in EXAMPLES and not shown.files:
                pixels = EXAMPLES[one.name]
            else:
                with decoder.fresh(self.model.bundle.limits, api.left()) as decode:
                    pixels = uploads.again(shown.files, decode, shown.number)
        except images.Unreadable as error:
            return rendering.refusal(error.reason, place, one.name)
        return rendering.cell(self.models, pixels, one, point, place)

    def row(self, shown: Shown, place: object, event: gr.EventData) -> tuple[Any, Any]:
        """Show the cell of the chosen table row, which begins with the cell's number."""
        if not shown.judged:
            return rendering.refusal(uploads.GONE), gr.skip()
        # Not gr.SelectData, which fails on a request without a row.
        values = event._data.get("row_value") if isinstance(event._data, dict) else None
        number = values[0] if isinstance(values, list) and values else None
        if not isinstance(number, int) or not 1 <= number <= len(shown.judged):
            return gr.skip(), gr.skip()
        return self.look(shown, number - 1, place)

    def next(self, shown: Shown, place: object) -> tuple[Any, Any]:
        """Show the next cell that is worth a look; after the last one, the first again."""
        outcomes = batches.outcomes(self.models, shown.judged, self.at(place))
        order = batches.to_look_at(outcomes, shown.judged)
        if not order:
            return rendering.refusal(uploads.GONE), gr.skip()
        after = order.index(shown.number) + 1 if shown.number in order else 0
        return self.look(shown, order[after % len(order)], place)

    def look(self, shown: Shown, number: int, place: object) -> tuple[str, Shown]:
        shown = replace(shown, number=number)
        return self.cell(shown, self.at(place)), shown

    def draw(self, source: cells.Source, place: object) -> tuple[str, Round]:
        """Draw a new round of labelled cells; of synthetic ones, new to every model, if `source` is empty."""
        return self.board((source, cells.draw(source, self.model)), place)

    def play(self, move: Callable[[Cards], Cards], game: Round | None, place: object) -> tuple[str, Round]:
        """Make a move: open one cell, or all; without a round, draw a new one."""
        return self.board((game[0], move(game[1])), place) if game else self.draw(self.source, place)

    def board(self, game: Round, place: object) -> tuple[str, Round]:
        return rendering.round_of(*game, self.at(place)), game

    def again(self, place: object, shown: Shown, unsure: bool, game: Round | None) -> tuple[Any, ...]:
        """Show everything again, after the operating point or the filter has changed."""
        point = self.at(place)
        return *self.views(shown, point, unsure), self.board(game, place)[0] if game else gr.skip()

    def late(self, place: object, shown: Shown, unsure: bool, game: Round | None) -> Any:
        """Show uploads again if operating point or filter were changed while they were judged."""
        same = shown.asked in (None, (place, unsure))
        return gr.skip() if same else self.again(place, shown, unsure, game)
