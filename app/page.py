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
class View:
    """The cells in view, their `files` (none for an example), and the `index` of the one shown large.

    A session keeps their thumbnails, and no other pixels. `settings`: the operating point's index and the
    filter with which uploads were sent.
    """

    judged: tuple[batches.JudgedImage, ...] = ()
    files: uploads.Files = ()
    index: int | None = None
    settings: tuple[object, bool] | None = None


# A round of labelled cells, with their source.
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
    examples = [
        f"#example-{number} {{ background-image: url({pictures.data_uri(pixels, 72)}); }}"
        for number, pixels in enumerate(EXAMPLES.values(), start=1)
    ]
    style = rendering.text("page.css") + "\n".join(examples)
    return f"<style>{style}</style><script>{rendering.text('page.js')}</script>"


def build(models: Sequence[Model], source: cells.Source, folder: Path, limits: Limits) -> Any:
    """Build the page, as gr.Blocks: `models` are one model or two to compare, `folder` is for uploads."""
    model, compared = models[0], len(models) > 1
    handlers = Handlers(models, source, folder)
    with gr.Blocks(title="Malaria cells") as page:
        view, game = (gr.State(value, time_to_live=limits.keep) for value in (View(), None))
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
                also = ", or on which the versions differ" if compared else ""
                unsure = gr.Checkbox(
                    label=f"Show only cells that need a second look{also}", visible=False, elem_id="unsure"
                )
                columns = rendering.columns(models)
                kinds, widths = zip(*columns.values(), strict=True)
                table = gr.Dataframe(
                    headers=list(columns), datatype=list(kinds), column_widths=list(widths),
                    label="Cells: press one to see it large", elem_id="table",
                    interactive=False, buttons=[], visible=False,
                )  # fmt: skip
                next_cell = gr.Button("Next to look at", visible=False, elem_id="next")
                cell = gr.HTML(elem_id="answer")
            with gr.Tab("Test it"):
                gr.Markdown(
                    f"See how often {model.title if compared else 'the model'} is right, and how often you "
                    "are. A cell's label is hidden until you have said what you call it."
                )
                with gr.Row():
                    guesses = {label: gr.Button(f"I call it {label}") for label in reversed(labels.LABELS)}
                    no_guess = gr.Button("Just show me")
                    show_all = gr.Button("Show all")
                    draw = gr.Button("Draw new cells", variant="primary")
                    draw_synthetic = gr.Button("Draw synthetic cells", visible=bool(source))
                board = gr.HTML("<p>Press “Draw new cells” to begin.</p>", elem_id="board")
            with gr.Tab("About"):
                for version in models:
                    gr.Markdown(rendering.render("about.md.j2", model=version), elem_classes="mc-facts")
                    curves(version)
                    gr.Markdown(version.card, elem_classes="mc-card")
        with gr.Accordion("Settings", open=False):
            point = gr.Radio(
                [(verdict.cost(point, model.points), index) for index, point in enumerate(model.points)],
                value=model.points.index(verdict.HALF), label="Operating point", elem_id="operating-point",
                info=rendering.render("operating_point.html.j2", models=models),
            )  # fmt: skip
        with gr.Accordion("For programs", open=False):
            gr.Markdown(rendering.text("programs.md"))

        def on(event: Any, function: Any, inputs: Any, outputs: Any, name: str, **options: Any) -> Any:
            options |= {"api_name": name, "api_visibility": "undocumented", "concurrency_id": "judge"}
            return event(api.in_gradio()(function), inputs, outputs, **options)

        scroll = {"fn": None, "js": "look", "api_visibility": "private"}
        cell_outputs, game_outputs = [cell, view], [board, game]
        view_outputs = [totals, unsure, table, next_cell, cell, view]
        state, all_outputs = [point, view, unsure, game], [*view_outputs, board]
        quiet = {"show_progress": "hidden"}
        # Without `preprocess` Gradio decodes no file, but passes on the paths of the uploads. Of several
        # requests, the page shows the last one's answer last.
        uploading = {"preprocess": False, "trigger_mode": "always_last"}
        sent = [files, point, unsure]
        judging = on(files.upload, handlers.show, sent, view_outputs, "show_cells", **uploading)
        on(judging.then, handlers.catch_up, state, all_outputs, "settings_of_cells", **quiet).then(**scroll)
        for number, button in enumerate(examples, 1):
            example, name = partial(handlers.example, button.value), f"show_example_{number}"
            on(button.click, example, [point], view_outputs, name, cancels=[judging]).then(**scroll)
        on(table.select, handlers.row, [view, point], cell_outputs, "show_row", **quiet).then(**scroll)
        on(next_cell.click, handlers.next, [view, point], cell_outputs, "show_next", **quiet).then(**scroll)
        on(draw.click, partial(handlers.draw, source), [point], game_outputs, "draw_cells")
        on(draw_synthetic.click, partial(handlers.draw, ()), [point], game_outputs, "draw_synthetic_cells")

        def on_move(button: Any, move: Callable[[Cards], Cards], name: str) -> None:
            on(button.click, partial(handlers.play, move), [game, point], game_outputs, name)

        for label, button in guesses.items():
            on_move(button, partial(cells.guess, label=label), f"call_{label.lower()}")
        on_move(no_guess, partial(cells.guess, label=None), "show_label")
        on_move(show_all, cells.reveal, "show_labels")
        change = partial(gr.on, [point.change, unsure.change])
        on(change, handlers.refresh, state, all_outputs, "operating_point", **quiet)

        for name, function in api.endpoints(models, folder).items():
            gr.api(api.in_gradio()(function), api_name=name, concurrency_id="judge")
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
    rates = [scores, *(at_point for name, at_point in scores.items() if name.startswith("at_"))]
    costs = sorted(
        (1 - rate["specificity"]["value"], *(rate["sensitivity"][end] for end in ("value", "low", "high")))
        for rate in rates
        if rate["sensitivity"]["low"] is not None
    )
    bins = zip(*plots.get("scores", {}).values(), strict=True)
    counts = ((p, infected, infected + healthy) for p, infected, healthy in bins if infected + healthy)
    calibration = [(p, infected / total, *batches.wilson(infected, total)) for p, infected, total in counts]
    alarms, detected = "of 100 healthy cells, called Parasitized", "of 100 parasitised cells, found"
    with gr.Row():
        _plot("What the operating points cost", alarms, detected, costs)
        _plot("How well P is calibrated", "P, of 100", "of 100 such cells, parasitised", calibration)


def _plot(title: str, x: str, y: str, points: Sequence[tuple[float, ...]]) -> None:
    """Plot a curve with its interval through two points or more: (x, estimate, low, high), in [0, 1]."""
    if len(points) < 2:
        return
    lines = (100 * pd.DataFrame(points, columns=[x, *_LINES])).melt(x, var_name="line", value_name=y)
    x_lim, y_lim = ([lines[axis].min() - pad, lines[axis].max() + pad] for axis, pad in ((x, 1), (y, 2)))
    gr.LinePlot(
        lines, x, y, title=title, x_lim=x_lim, y_lim=y_lim, height=280, min_width=280,
        color="line", color_title=" ", color_map=_LINES,
    )  # fmt: skip


class Handlers:
    """The functions behind the page's components, whose values they take and return."""

    def __init__(self, models: Sequence[Model], source: cells.Source, folder: Path) -> None:
        self.models, self.source, self.folder = models, source, folder
        self.model = models[0]

    def point(self, place: object) -> verdict.Point:
        """The operating point with index `place`; gr.Error if there is none."""
        if not isinstance(place, int | float) or not 0 <= place < len(self.model.points):
            raise gr.Error("There is no such operating point.", print_exception=False)
        return self.model.points[int(place)]

    def show(
        self, files: Sequence[object] | None, place: object, unsure: bool, progress: Any = _PROGRESS
    ) -> tuple[Any, ...]:
        """Judge uploaded files, and show the answers."""
        point = self.point(place)
        named = tuple(uploads.name_and_file(file, self.folder) for file in files or ())
        total = min(uploads.count([file for _, file in named]), uploads.MAX_CELLS)
        judged, gone = [], api.client_gone()
        with decoder.start(self.model.bundle.limits, gone) as decode:
            for image in batches.judge(self.models, uploads.unpack(named, decode)):
                judged.append(image)
                progress((len(judged), max(total, len(judged))), unit="cells")
                if gone():
                    break
        index = 0 if len(judged) == 1 else None
        return self.components(View(tuple(judged), named, index, (place, unsure)), point, unsure)

    def example(self, name: str, place: object) -> tuple[Any, ...]:
        """Judge an example, and show the answer."""
        upload = uploads.Upload(name, lambda: images.Crop(EXAMPLES[name]))
        view = View(tuple(batches.judge(self.models, [upload])), index=0)
        return self.components(view, self.point(place), False)

    def components(self, view: View, point: verdict.Point, unsure: bool) -> tuple[Any, ...]:
        """Values of all components that show the cells; a single cell has neither totals nor a table."""
        many = len(view.judged) > 1
        outcomes = batches.outcomes(self.models, view.judged, point)
        totals, rows = rendering.batch(outcomes, view.judged, unsure) if many else ("", [])
        has_next = many and bool(batches.to_look_at(outcomes, view.judged))
        return (
            totals,
            gr.Checkbox(visible=many),
            gr.Dataframe(rows, visible=bool(rows)),
            gr.Button(visible=has_next),
            self.cell(view, point),
            view,
        )

    def cell(self, view: View, point: verdict.Point) -> str:
        """HTML of the cell that is shown large; empty if there is none."""
        if view.index is None:
            return ""
        image, count = view.judged[view.index], len(view.judged)
        place = f"Cell {view.index + 1:,} of {count:,}" if count > 1 else ""
        try:
            if not image.answers:
                raise images.Unreadable(image.reason)
            if image.name in EXAMPLES and not view.files:
                pixels = EXAMPLES[image.name]
            else:
                with decoder.start(self.model.bundle.limits, api.client_gone()) as decode:
                    pixels = uploads.read_again(view.files, decode, view.index)
        except images.Unreadable as error:
            return rendering.refusal(error.reason, place, image.name)
        return rendering.cell(self.models, pixels, image, point, place)

    def row(self, view: View, place: object, event: gr.EventData) -> tuple[Any, Any]:
        """Show the cell of the chosen table row, which begins with the cell's number."""
        if not view.judged:
            return rendering.refusal(uploads.GONE), gr.skip()
        # Not gr.SelectData, which fails on a request without a row.
        values = event._data.get("row_value") if isinstance(event._data, dict) else None
        number = values[0] if isinstance(values, list) and values else None
        if not isinstance(number, int) or not 1 <= number <= len(view.judged):
            return gr.skip(), gr.skip()
        return self.enlarge(view, number - 1, place)

    def next(self, view: View, place: object) -> tuple[Any, Any]:
        """Show the next cell that is worth a look; after the last one, the first again."""
        outcomes = batches.outcomes(self.models, view.judged, self.point(place))
        order = batches.to_look_at(outcomes, view.judged)
        if not order:
            return rendering.refusal(uploads.GONE), gr.skip()
        position = order.index(view.index) + 1 if view.index in order else 0
        return self.enlarge(view, order[position % len(order)], place)

    def enlarge(self, view: View, index: int, place: object) -> tuple[str, View]:
        view = replace(view, index=index)
        return self.cell(view, self.point(place)), view

    def draw(self, source: cells.Source, place: object) -> tuple[str, Round]:
        """Draw a new round of labelled cells; of synthetic ones, new to every model, if `source` is empty."""
        return self.board((source, cells.draw(source, self.model)), place)

    def play(self, move: Callable[[Cards], Cards], game: Round | None, place: object) -> tuple[str, Round]:
        """Make a move: open one cell, or all; without a round, draw a new one."""
        return self.board((game[0], move(game[1])), place) if game else self.draw(self.source, place)

    def board(self, game: Round, place: object) -> tuple[str, Round]:
        return rendering.round_of(*game, self.point(place)), game

    def refresh(self, place: object, view: View, unsure: bool, game: Round | None) -> tuple[Any, ...]:
        """Show everything again, after the operating point or the filter has changed."""
        point = self.point(place)
        return *self.components(view, point, unsure), self.board(game, place)[0] if game else gr.skip()

    def catch_up(self, place: object, view: View, unsure: bool, game: Round | None) -> Any:
        """Show uploads again if operating point or filter were changed while they were judged."""
        same = view.settings in (None, (place, unsure))
        return gr.skip() if same else self.refresh(place, view, unsure, game)
