"""The rules that decide a figure, a verdict or a refusal, each with tests that must fail if it changes.

`make rules` changes one rule at a time, in a copy of the working tree, and runs its guards, which must fail.
Prints a line for each rule. The exit status is 1 if the guards of a changed rule pass. If the code of a rule
has changed or moved, the command stops: update its row here.
"""

import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from malaria import programs
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "HEAD~1"

# Imported once, in the process that each run is forked from: importing them takes longer than most tests.
LIBRARIES = [
    "ai_edge_litert.interpreter", "cleanlab.filter", "hypothesis", "jinja2", "pandas", "PIL.Image",
    "pydantic", "requests", "scipy.optimize", "scipy.spatial", "scipy.special", "sklearn.calibration",
    "sklearn.covariance", "sklearn.metrics", "splitfolders", "starlette.exceptions", "yaml",
]  # fmt: skip
# Plugins take time to load, bytecode could outlive a change, and threads would wait for each other.
ENVIRONMENT = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """A rule: `code` occurs once in `file`. With `change` in its place, the tests `guards` must fail.

    `guards` are test files or pytest's node ids.
    """

    name: str
    file: str
    code: str
    change: str
    guards: tuple[str, ...]


def of(file: str, guards: str, *rows: tuple[str, str, str]) -> tuple[Rule, ...]:
    """The rules of a file that have the same guards.

    Args:
        guards: a test file, then the names of tests in it (none: all of them), separated by spaces.
        rows: name, code and change of each rule.
    """
    tests, *names = guards.split()
    nodes = tuple(f"{tests}::{name}" for name in names) or (tests,)
    return tuple(Rule(name, file, code, change, nodes) for name, code, change in rows)


RULES = (
    *of(
        "malaria/labels.py",
        "tests/test_labels.py",
        ("the threshold itself is positive", "p_parasitized >= threshold", "p_parasitized > threshold"),
        (
            "by default a cell is called parasitised from 0.5 on",
            "threshold: float = 0.5",
            "threshold: float = 0.4",
        ),
        ("Parasitized has the value 1", "(names) == PARASITIZED", "(names) != PARASITIZED"),
        ("a label's value is its position", "(UNINFECTED, PARASITIZED)", "(PARASITIZED, UNINFECTED)"),
    ),
    *of(
        "malaria/evaluate/metrics.py",
        "tests/evaluate/test_metrics.py",
        ("intervals are of 95 %", "(2.5, 97.5)", "(5.0, 95.0)"),
        (
            "rates call a cell parasitised from the threshold on",
            "called = sample.p >= threshold",
            "called = sample.p > threshold",
        ),
        (
            "the bootstrap draws as many patients as there are",
            "multinomial(patients, np",
            "multinomial(2, np",
        ),
        ("ties share one threshold", "np.flatnonzero(np.diff(p, append=-np.inf))", "np.arange(len(p))"),
        ("sensitivity at a specificity keeps the specificity", "allowed = fp <= ", "allowed = fp < 1 + "),
        (
            "its false positives are a share of all healthy cells",
            "(1 - specificity) * fp[-1] + 1e-9",
            "(1 - specificity)",
        ),
        ("a bin's gap counts without its sign", "np.abs(gaps).sum(axis=0)", "np.abs(np.sum(gaps, axis=0))"),
        (
            "a calibration error is a mean over all cells",
            ".sum(axis=0) / sample.cells()",
            ".sum(axis=0) / bins",
        ),
        ("the Brier score is squared", "(sample.p - sample.y) ** 2", "np.abs(sample.p - sample.y)"),
        (
            "a patient counts from the fewest cells on",
            "np.where(cells >= min_cells, hits",
            "np.where(cells > min_cells, hits",
        ),
        ("a patient's cells are called from 0.5 on", "(sample.p >= 0.5) == kind", "(sample.p > 0.5) == kind"),
        ("a patient's AUC needs both classes", ">= max(min_cells, 1)", "> max(min_cells, 1)"),
        ("the fewest cells are those of the rarer class", "counts.min(axis=1)", "counts.max(axis=1)"),
        ("the worst tenth is a tenth of the patients", "round(len(values) / 10)", "round(len(values) / 5)"),
        (
            "the worst patients come first",
            "np.sort(np.repeat(by_patient[known], counts))",
            "np.repeat(by_patient[known], counts)",
        ),
        (
            "a threshold has at least its specificity",
            "np.ceil(specificity *",
            "np.floor(specificity *",
        ),
        ("a threshold lies between cells", "halfway if halfway > last else following", "following"),
        ("if a cell at 1 must stay below, no cell is called parasitised", "if last >= 1:", "if last > 1:"),
        ("without a healthy cell the threshold is 0.5", "        return 0.5", "        return 0.0"),
        (
            "false positives are a share of healthy cells",
            "(1 - specificity) * (1 - parasitaemia)",
            "(1 - specificity)",
        ),
        ("a share is from 0 to 1", "if not 0 <= value <= 1:", "if not 0 <= value <= 2:"),
    ),
    *of(
        "malaria/evaluate/calibration.py",
        "tests/evaluate/test_evaluation.py",
        ("the temperature divides", "-logit(p) / temperature", "-logit(p) * temperature"),
        ("temperatures up to 20", "(0.05, 20.0)", "(0.05, 19.0)"),
        ("temperatures from 0.05", "(0.05, 20.0)", "(0.06, 20.0)"),
        ("few cells ask for caution", "(cells + 1)", "(cells + 2)"),
        ("the targets of each class come from its own cells", "1 - certainty[0])", "1 - certainty[1])"),
        ("one class alone fits no temperature", "len(np.unique(y)) < 2", "len(np.unique(y)) < 1"),
    ),
    *of(
        "malaria/evaluate/evaluation.py",
        "tests/evaluate/test_evaluation.py",
        (
            "thresholds are fitted on calibrated probabilities",
            "p = calibration.apply(p_network, temperature)",
            "p = p_network",
        ),
        ("a control is recognised by the file's name", "not name.infected if", "name.infected if"),
        (
            "the name takes precedence over the cells' labels",
            "if (name := names.parse(Path(path).name)) else patient not in infected",
            "if (name := names.parse(Path(path).name)) and False else patient not in infected",
        ),
        ("patients' sensitivities use parasitised cells", "for kind in (1, 0))", "for kind in (0, 0))"),
        ("patients' specificities use healthy cells", "for kind in (1, 0))", "for kind in (1, 1))"),
        (
            "without names, a control is a patient without a parasite",
            "else patient not in infected",
            "else patient in infected",
        ),
        (
            "controls' specificity uses controls only",
            "sample.only(known & controls))",
            "sample.only(known & ~controls))",
        ),
        (
            "doubtful labels are left out",
            "sample.only(~in_doubt), ~in_doubt",
            "sample.only(in_doubt), in_doubt",
        ),
        ("doubtful labels are flipped", "sample.y ^ in_doubt", "sample.y | in_doubt"),
        ("an operating point's rates are at its threshold", "rates(sample, threshold)", "rates(sample)"),
        (
            "figures before calibration are the network's",
            "metrics.ece(uncalibrated, settings.bins)",
            "metrics.ece(sample, settings.bins)",
        ),
        ("a cell with a reason is rejected", 'cells[cells.rejected != ""]', 'cells[cells.rejected == ""]'),
        (
            "rejected parasites are counted",
            "(rejected.label == labels.PARASITIZED)",
            "(rejected.label != labels.PARASITIZED)",
        ),
    ),
    *of(
        "malaria/evaluate/paired.py",
        "tests/evaluate/test_paired.py",
        ("an interval without zero tells apart", "low > 0 or", "low > -1 or"),
        ("an interval below zero tells apart, too", "self.difference.high < 0", "self.difference.high < -1"),
        ("a difference is one minus other", "metrics.estimate(one - other)", "metrics.estimate(other - one)"),
        (
            "a cell that either model turned away is left out",
            "joined.one.notna() & joined.other.notna()",
            "joined.one.notna()",
        ),
        ("a patient's cells are called from 0.5 on", "one=cells.one >= 0.5", "one=cells.one > 0.5"),
        (
            "the other model's cells are called from 0.5 on, too",
            "other=cells.other >= 0.5",
            "other=cells.other > 0.5",
        ),
        ("a patient counts from the fewest cells on", "table.cells >= min_cells", "table.cells > min_cells"),
        (
            "patients' sensitivities leave out doubtful labels",
            " & ~doubtful_labels.is_doubtful(cells, doubtful)",
            "",
        ),
    ),
    *of(
        "malaria/evaluate/plots.py",
        "tests/evaluate/test_plots.py",
        ("a perfect reliability is the diagonal", '"perfect": mean', '"perfect": share'),
        ("a patient's cells are called from 0.5 on", "p_parasitized >= 0.5", "p_parasitized > 0.5"),
        ("a patient is plotted from the fewest cells on", '["size"] >= min_cells', '["size"] > min_cells'),
        (
            "parasitised cells are the parasitised ones",
            '"parasitized_cells": np.histogram(p[y == 1]',
            '"parasitized_cells": np.histogram(p[y == 0]',
        ),
        ("the plots call as the app does", "labels.category(value)", "labels.category(value, 0.6)"),
    ),
    *of(
        "experiments/label_audit.py",
        "tests/experiments/test_label_audit.py test_a_mark_is_what_85_of_100_cells_of_a_class_stay_under "
        "test_ten_healthy_cells_shift_by_half_of_their_median "
        "test_wrong_labels_come_first_and_are_called_suspect "
        "test_a_patient_without_a_healthy_cell_shifts_by_nothing",
        ("a class's mark", "_MARK, _HALF_WEIGHT = 0.85, 10", "_MARK, _HALF_WEIGHT = 0.5, 10"),
        ("a patient's own median", "_MARK, _HALF_WEIGHT = 0.85, 10", "_MARK, _HALF_WEIGHT = 0.85, 20"),
        (
            "log-odds against the label count",
            "np.where(y == 1, -logits, logits)",
            "np.where(y == 1, logits, -logits)",
        ),
        ("stain is seen on healthy cells", "[y == 0]\n", "[y == 1]\n"),
        ("without healthy cells no stain is subtracted", "fillna(0.0)", "fillna(1.0)"),
    ),
    *of(
        "experiments/label_audit.py",
        "tests/experiments/test_label_audit.py "
        "test_as_many_labels_are_listed_as_lie_on_the_other_side_of_one_half",
        ("how many labels are contradicted", "(ranked.p_parasitized >= 0.5)", "(ranked.p_parasitized > 0.5)"),
        ("a contradicted label is on the other side of 0.5", "!= (ranked.label ==", "== (ranked.label =="),
    ),
    *of(
        "experiments/label_audit.py",
        "tests/experiments/test_label_audit.py "
        "test_the_list_that_the_published_ranking_contradicts_may_be_learned_without",
        (
            "a ranking repeats no list",
            "doubtful != _published_contradictions(revision)",
            "not _published_contradictions(revision)",
        ),
        ("a ranking may learn from the last", " and doubtful != _published_contradictions(revision)", ""),
    ),
    *of(
        "malaria/bundle/card.py",
        "tests/bundle/test_card.py",
        (
            "predictive values take sensitivity, then specificity",
            "metrics.ppv(*rates,",
            "metrics.ppv(*rates[::-1],",
        ),
        ("parasitaemias of the predictive values", "(0.001, 0.01, 0.05)", "(0.01, 0.01, 0.05)"),
        ("the last side gives the figures", "list(sides)[-1]", "list(sides)[0]"),
        ("operating points were fitted on the first side", "fitted_on=fitted_on", "fitted_on=judged"),
    ),
    *of(
        "malaria/bundle/ood.py",
        "tests/bundle/test_ood.py "
        "test_limits_are_wider_where_held_out_cells_lie_farther_out "
        "test_limits_are_never_narrower_than_the_usual_ones "
        "test_a_batch_that_looks_like_no_patient_is_foreign "
        "test_few_patients_or_patients_of_few_cells_say_nothing_of_batches "
        "test_a_batch_as_far_as_the_limit_is_not_foreign "
        "test_the_farthest_patients_distance_from_the_others_is_the_limit_of_a_batch "
        "test_ranges_hold_all_training_cells_but_the_outermost test_a_stain_of_any_strength_has_one_colour "
        "test_the_shape_of_a_crop_is_judged_before_it_is_resized test_quantities_are_what_they_say "
        "test_the_middle_is_a_disc_of_six_tenths_of_the_cell "
        "test_what_is_brighter_than_16_in_any_channel_is_cell",
        ("one held-out cell in two hundred", "(held_out, 0.995,", "(held_out, 0.9955,"),
        (
            "a fifth of a range outside",
            "_MAX_LOG_ODDS = 0.0002, 0.2, 1.0",
            "_MAX_LOG_ODDS = 0.0002, 0.3, 1.0",
        ),
        ("the log-odds of no cell", "_LOG_ODDS = 0.0002, 0.2, 1.0", "_LOG_ODDS = 0.0002, 0.2, 2.0"),
        ("the strength of the stain may differ", "[[1.5, 0.0, 0.2], [0.6,", "[[1.0, 0.0, 0.2], [0.6,"),
        ("the balance of red and blue may differ", "[0.6, 0.0, 0.2]])", "[0.6, 0.0, 0.4]])"),
        ("the share of green may not differ", "[0.6, 0.0, 0.2]])", "[0.6, 0.1, 0.2]])"),
        ("green's usual share", "_GREEN_SHARE = 0.43", "_GREEN_SHARE = 0.33"),
        ("a strong stain is no colour", "divisor = np.maximum(stain, 1)", "divisor = np.maximum(stain, 3)"),
        ("cells of a batch", "_BATCH_CELLS, _MIN_PATIENTS = 50, 10", "_BATCH_CELLS, _MIN_PATIENTS = 49, 10"),
        ("a batch beyond the limit is foreign", "whitening) > float(", "whitening) >= float("),
        ("fifty cells of a patient are enough", "counts >= _BATCH", "counts > _BATCH"),
        ("ten patients are enough to compare with", "patients) < _MIN_", "patients) <= _MIN_"),
        ("patients to compare with", "CELLS, _MIN_PATIENTS = 50, 10", "CELLS, _MIN_PATIENTS = 50, 9"),
        ("the farthest patient sets the limit of a batch", "[max(separations)]", "[min(separations) / 2]"),
        ("the largest side", "_LARGEST_ASPECT = 1000, 2.5", "_LARGEST_ASPECT = 1001, 2.5"),
        ("the largest aspect", "_LARGEST_ASPECT = 1000, 2.5", "_LARGEST_ASPECT = 1000, 2.6"),
        ("the inner disc", "_DISC_RADIUS = 0.6", "_DISC_RADIUS = 0.9"),
    ),
    *of(
        "malaria/bundle/ood.py",
        "tests/bundle/test_ood.py test_ranges_hold_all_training_cells_but_the_outermost "
        "test_beyond_its_limits_a_cell_is_turned_away "
        "test_what_is_no_stained_cell_is_turned_away_with_a_reason",
        ("ranges hold all but the tails", "_MAX_LOG_ODDS = 0.0002", "_MAX_LOG_ODDS = 0.0003"),
        ("out of range is turned away", "look) > check.limits[0]", "look) > check.limits[0] + 0.1"),
        ("beyond the limits is turned away", "> check.limits[1:]", "> 2 * check.limits[1:]"),
        (
            "too little and too much have reasons of their own",
            "list(REASONS.values())[:count]",
            "[words[::-1] for words in REASONS.values()][:count]",
        ),
    ),
    *of(
        "malaria/cells/prepared.py",
        "tests/bundle/test_ood.py test_a_stain_of_any_strength_has_one_colour "
        "test_quantities_are_what_they_say "
        "test_what_is_brighter_than_16_in_any_channel_is_cell",
        ("a pixel brighter than 16 belongs to the cell", "BLACK = 16", "BLACK = 17"),
        ("an empty background's grey level", "LIGHT = 235.0", "LIGHT = 236.0"),
    ),
    *of(
        "malaria/bundle/fingerprints.py",
        "tests/bundle/test_fingerprints.py test_a_copy_differs_in_ten_bits_at_most",
        ("the tolerance of a copy", "TOLERANCE = 10", "TOLERANCE = 30"),
        ("bits up to the tolerance may differ", "bits <= TOLERANCE", "bits < TOLERANCE"),
    ),
    *of(
        "malaria/bundle/__init__.py",
        "tests/bundle/test_bundle.py test_a_bundle_of_other_labels_or_another_resize_is_refused "
        "test_another_network_than_the_described_one_is_refused "
        "test_probabilities_are_those_of_the_network_at_its_temperature",
        ("probabilities are calibrated", "apply(p, self.record.temperature)", "apply(p, 1.0)"),
        (
            "another network is refused",
            'record.hashes.get("network"), f"the network',
            'files.sha256(folder / NETWORK), f"the network',
        ),
        ("other labels are refused", "(record.labels, record", "(labels.LABELS, record"),
        ("another positive class is refused", ", record.positive, rec", ", labels.PARASITIZED, rec"),
        ("another resize is refused", "record.resize) != expected", "images.RESIZE) != known"),
    ),
    *of(
        "malaria/bundle/__init__.py",
        "tests/bundle/test_bundle.py test_a_rejected_picture_has_no_probability "
        "test_a_crops_own_shape_counts_also_where_it_was_resized_before "
        "test_a_gate_that_is_not_the_exported_one_is_refused",
        ("a cell that is turned away has no probability", "accepted = [reason is None", "accepted = [True"),
        ("another part is refused", "hexdigest() != sha256", "hexdigest() == ''"),
    ),
    *of(
        "malaria/fetch/laboratories.py",
        "tests/fetch/test_laboratories.py",
        ("two sets of one name are refused", "if twin != path:", "if False:"),
    ),
    *of(
        "malaria/fetch/fields.py",
        "tests/fetch/test_fields.py",
        (
            "a cell with an annotated parasite on it is not uninfected",
            "sorted(set(matched.extra) - set(unclear))",
            "matched.extra",
        ),
    ),
    *of(
        "malaria/fields/annotations.py",
        "tests/fields/test_annotations.py",
        ("what two files mark counts once", "if any(_alike(mark.box, other.box) for", "if any(False for"),
    ),
    *of(
        "malaria/__main__.py",
        "tests/predict/test_command.py test_so_many_unreadable_images_as_are_allowed_are_no_failure",
        (
            "as many unreadable images as are allowed",
            "unreadable / images > arguments.max_unreadable",
            "unreadable > arguments.max_unreadable * images",
        ),
    ),
    *of(
        "malaria/cells/prepare.py",
        "tests/cells/test_prepare.py",
        (
            "a crop that is too small for corners keeps its background",
            "if min(cell.shape[:2]) < _CORNER:",
            "if False:",
        ),
    ),
    *of(
        "malaria/cells/splits.py",
        "tests/cells/test_splits.py",
        (
            "a cell that was set aside is on no side",
            "sides_by_folder(cells[cells.status == tables.OK])",
            "sides_by_folder(cells)",
        ),
        (
            "val's share is of all cells",
            "settings.ratio[1] * len(accepted) / max(len(train), 1)",
            "settings.ratio[1]",
        ),
        ("val is half of the rest at most", "max(len(train), 1), 0.5)", "max(len(train), 1), 0.9)"),
        ("shares fit within the tolerance", "distance <= settings.tolerance + 1e-9", "distance <= 0.5"),
        (
            "the worse share of all and of parasitised cells counts",
            ".abs().to_numpy().max()",
            ".abs().to_numpy().min()",
        ),
        ("a patient on two sides is torn", "sides[sides > 1]", "sides[sides > 2]"),
        (
            "split.fold is tested",
            "table.fold == str(settings.fold), TEST, TRAIN",
            "table.fold == str(settings.fold), TRAIN, TEST",
        ),
        ("infected patients are drawn apart", 'new["sum"] > 0', 'new["sum"] > -1'),
        (
            "a patient that was there before keeps its side",
            "split(cells, settings, kept.side_of)",
            "split(cells, settings)",
        ),
        ("the sides of earlier rounds are kept", "rounds=(*kept.rounds, Round", "rounds=(*(), Round"),
        ("another ratio or seed draws all sides again", "!= (settings.ratio, settings.seed)", "== ((), -1)"),
        (
            "each side needs both classes",
            "(assigned.split == name) & (assigned.label == label)",
            "(assigned.split == name)",
        ),
        (
            "with unknown patients a split is not by patient",
            " and bool(patients.is_known(assigned.patient).all())",
            "",
        ),
    ),
    *of(
        "malaria/cells/patients.py",
        "tests/cells/test_patients.py",
        (
            "a cell without a known patient is a patient of its own",
            "_UNKNOWN + (original or path)",
            "_UNKNOWN",
        ),
        ("an exact row wins", 'end if end in table else ""', '""'),
        (
            "the longest end of a path wins",
            "(*_ends(original), *_ends(path))",
            "(*_ends(path), *_ends(original))",
        ),
        ("rows of several patients name nothing", "table[first] != patient", "False"),
        ("all copies that Roboflow makes are of one patient", r"(_[a-z]+\.rf\.[0-9a-z]+)?", ""),
    ),
    *of(
        "malaria/cells/patients.py",
        "tests/cells/test_splits.py",
        (
            "only accepted cells are split",
            "cells[cells.status == tables.OK].reset_index",
            "cells.reset_index",
        ),
    ),
    *of(
        "malaria/cells/audit.py",
        "tests/cells/test_audit.py test_the_share_set_aside_may_reach_the_limit "
        "test_a_class_without_a_readable_image_stops_the_pipeline "
        "test_of_copies_under_one_label_the_first_by_path_stays "
        "test_of_an_image_under_both_labels_no_copy_stays "
        "test_patients_csv_is_believed_over_the_name_and_the_page_says_so "
        "test_slides_that_disagree_with_the_names_are_believed_counted_and_shown "
        "test_the_summary_counts_cells_patients_and_sizes "
        "test_the_share_of_the_ten_patients_with_most_parasitised_cells",
        (
            "how much may be set aside",
            "if share > settings.max_quarantined:",
            "if share >= settings.max_quarantined:",
        ),
        (
            "each class needs an image",
            "(cells.label == label) & (cells.status == tables.OK)",
            "(cells.label == label)",
        ),
        ("the first of copies stays", "if first != row.path", "if first"),
        ("no copy under both labels stays", "if opposite:", "if False:"),
        (
            "patients.csv takes precedence over the name",
            'patient_of.get(path) or (cell_name.patient if cell_name else "")',
            '(cell_name.patient if cell_name else "") or patient_of.get(path, "")',
        ),
        (
            "slides.csv takes precedence over the name",
            "published.get(path) or names.parse(Path(path).name)",
            "names.parse(Path(path).name) or published.get(path)",
        ),
        (
            "a patient with a parasitised cell is infected",
            "known.patient[known.label == PARASITIZED]",
            "known.patient[known.label != PARASITIZED]",
        ),
        ("the top ten patients", ".nlargest(10)", ".nlargest(9)"),
        (
            "their share is of parasitised cells",
            "largest.sum() / max(len(parasitized), 1)",
            "largest.sum() / max(len(accepted), 1)",
        ),
    ),
    *of(
        "malaria/cells/names.py",
        "tests/cells/test_names.py",
        (
            "an infected patient is the P number",
            'match["infected"] or match["person"], match',
            'match["person"], match',
        ),
        ("a patient with a P number is infected", 'startswith("P")', 'startswith("C")'),
    ),
    *of(
        "malaria/cells/doubtful_labels.py",
        "tests/evaluate/test_evaluation.py",
        (
            "a corrected label is in doubt no more",
            "(label, Path(path).name) in doubtful",
            "Path(path).name in {name for _, name in doubtful}",
        ),
        ("a label in doubt may be told by its path", "(label, path) in doubtful or ", ""),
        ("a doubtful label is one of the two", "~table.given_label.isin(LABELS)", "table.given_label.isna()"),
    ),
    *of(
        "malaria/cells/images.py",
        "tests/cells/test_images.py test_resize_rounds_to_the_nearest_level",
        (
            "half-pixel centres",
            "(np.arange(size) + 0.5) * (length / size) - 0.5",
            "np.arange(size) * (length / size)",
        ),
        ("levels are rounded", "columns + np.float32(0.5)", "columns"),
    ),
    *of(
        "malaria/cells/decoding.py",
        "tests/cells/test_images.py test_a_crop_may_reach_its_limits test_alpha_lies_over_black "
        "test_of_sixteen_bits_those_in_use_count",
        (
            "the most pixels",
            "image.width * image.height > limits.max_pixels",
            "image.width * image.height >= limits.max_pixels",
        ),
        ("the smallest side", "min(image.size) < limits.min_side", "min(image.size) <= limits.min_side"),
        ("transparent pixels become black", 'image.size, "black")', 'image.size, "white")'),
        ("of 16 bits those in use", "value << (16 - used_bits)", "value << (15 - used_bits)"),
    ),
    *of(
        "malaria/fields/find.py",
        "tests/fields/test_find.py",
        (
            "the edges of a cell vote for what lies inward",
            "edges + radius * inward",
            "edges - radius * inward",
        ),
        ("a place needs many votes to be a middle", "_FEW_VOTES = 0.45, 0.3", "_FEW_VOTES = 0.05, 0.05"),
        ("a large pale cell needs no votes", "> _MIN_GAP * diameter", "> 9 * diameter"),
        (
            "a long cell is whole",
            "(_middle_counts(clumps, markers > 0) == 1)",
            "(_middle_counts(clumps, markers > 0) == 9)",
        ),
        (
            "the black around a round view is no field",
            "_DARK, _MIN_DARK_AREA, _RIM = 0.35",
            "_DARK, _MIN_DARK_AREA, _RIM = 0.0",
        ),
        ("the rim of a round view cuts cells", "cut = at_rim or ", "cut = "),
        ("light that falls off is evened out", "< _MIN_FALL", "< 9"),
        (
            "a piece with a nucleus is no red cell",
            "0.4 * min(piece.sum(), cell_area)",
            "4 * min(piece.sum(), cell_area)",
        ),
    ),
    *of(
        "malaria/files.py",
        "tests/test_files.py",
        ("a new folder can be read by others", "new.mkdir()", "new.mkdir(0o700)"),
        (
            "a failed write leaves no file under its final name",
            "        yield folder / path.name\n        os",
            "        try:\n            yield folder / path.name\n        finally:\n            os",
        ),
    ),
    *of(
        "ci/verdict.py",
        "tests/ci/test_verdict.py",
        (
            "a model is worse only if its whole interval is",
            "figure.high if figure.high is not None",
            "figure.low if figure.low is not None",
        ),
        ("a loss that is allowed passes", "or 0.0) < -loss", "or 0.0) < loss"),
        ("without an interval the difference counts", "else figure.difference or 0.0)", "else 0.0)"),
        ("both rates of a point count", '("sensitivity", "specificity")]', '("sensitivity",)]'),
        (
            "the lower limit of AUC is enough",
            "comparison.auc_low >= comparison.limits.min_auc",
            "comparison.auc_low > comparison.limits.min_auc",
        ),
        ("a size or an error at its limit passes", "if value <= limit", "if value < limit"),
        ("min_cells cells are enough", "cells.cells < limits.min_cells", "cells.cells <= limits.min_cells"),
        ("a label overrides only a gate that fails", "in pull_labels and not passed", "in pull_labels"),
        (
            "a mergeable branch passes, or is overridden",
            "self.passed or bool(self.overridden)",
            "self.passed",
        ),
        (
            "one failed check fails",
            'passed = all(check.outcome != "failed"',
            'passed = any(check.outcome != "failed"',
        ),
        (
            "the branch's own code is no judge",
            "if comparison.own_code and comparison.base:",
            "if comparison.own_code and not comparison.base:",
        ),
        ("torn patients fail", 'not by patient": cells.torn', 'not by patient": 0'),
        ("renamed cells fail", "another patient's name\": cells.renamed", "another patient's name\": 0"),
        ("forged cells fail", 'data/cells.csv says": comparison.forged', 'data/cells.csv says": 0'),
        (
            "a share of min_patients is enough",
            "< limits.min_patients * cells.tested",
            "<= limits.min_patients * cells.tested",
        ),
        (
            "pictures that are no cells are turned away as well as by the base",
            "branch >= base - comparison.limits.point_loss",
            "branch >= base - 1",
        ),
        ("copies fail", 'to start from": cells.copies', 'in other files": 0'),
        (
            "another processor excuses what depends on it",
            "all(output.stage in OF_PROCESSOR",
            "any(output.stage in OF_PROCESSOR",
        ),
        (
            "a model that is above the one made here by just the limit passes",
            "gain > comparison.limits.auc_loss",
            "gain >= comparison.limits.auc_loss",
        ),
        ("a frozen stage fails", "    if rerun and rerun.frozen:", "    if not comparison:"),
        ("blind training is the same", "same = all(output.same", "same = any(output.same"),
        (
            "a bundle that cannot be made blindly fails",
            "    if rerun and rerun.blind_error:",
            "    if not rerun:",
        ),
        (
            "other outputs of the same inputs fail",
            "    if comparison.contradicted:",
            "    if not comparison.contradicted:",
        ),
        (
            "each rate of a point has its loss",
            "_points(comparison), limits.point_loss",
            "_points(comparison), limits.auc_loss",
        ),
        ("AUC has its loss", '"auc")], limits.auc_loss', '"auc")], limits.point_loss'),
        ("sensitivity has its loss", "limits.sensitivity_loss", "limits.point_loss"),
    ),
    *of(
        "ci/judge.py",
        "tests/ci/test_verdict.py",
        (
            "only stages with the same inputs can contradict the base",
            '{**lock[name], "outs": 0} == {**entry, "outs": 0}',
            "True",
        ),
        (
            "only stages with other outputs contradict the base",
            "lock[name] != entry",
            "lock[name] == entry",
        ),
    ),
    *of(
        "ci/judge.py",
        "tests/ci/test_comparison.py "
        "test_a_training_runs_again_where_it_differs_and_blindly_where_the_bundle_could "
        "test_cells_of_other_bytes_than_their_hash_or_of_none_are_forged "
        "test_what_a_branch_changes_of_the_judging_is_listed_and_not_what_its_base_changed_since "
        "test_a_section_that_was_not_there_yet_loosens_nothing",
        ("another training runs again", '_differ(base, branch, "train")', "False"),
        (
            "another bundle is made without sight of the test cells",
            "_differ(base, branch, *again.OF_PROCESSOR)",
            "False",
        ),
        ("a first revision differs in all", "base is None or any(base", "base is not None and any(base"),
        ("a cell without a file is forged", "not file.is_file() or ", "file.is_file() and "),
        ("a cell with other bytes is forged", " or files.sha256(file) != sha256", ""),
        ("the sections evaluate and gate are listed", '("evaluate", "gate")', '("evaluate",)'),
        (
            "changes of the base since the fork are not listed",
            "revisions.params_at(start",
            "revisions.params_at(base.commit",
        ),
        (
            "a new section loosens nothing",
            "name in old and old[name] != branch",
            "old.get(name) != branch",
        ),
        ("a failed gate ends with status 1", "verdict.mergeable or arguments.report", "True"),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_a_patient_that_moved_is_left_out_and_no_fault "
        "test_cells_are_judged_by_the_base_s_labels",
        ("val counts as used", "cells[cells.split != tables.TEST]", "cells[cells.split == tables.TRAIN]"),
        (
            "cells of used patients are left out",
            "~base_test.patient.isin(train_val_patients)",
            "base_test.patient.isin(train_val_patients) | True",
        ),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_a_cell_that_is_turned_away_counts_as_wrong",
        (
            "a cell that is turned away is wrong",
            "cells.label != labels.PARASITIZED, cells",
            "cells.label == labels.PARASITIZED, cells",
        ),
        ("a cell that only one side turned away is a flip", " | (p.isna() != base_p.isna())", ""),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_a_cell_at_the_bundle_s_limits_is_taken",
        ("a side of min_side is no refusal", "min(crop.shape[:2]) < least", "min(crop.shape[:2]) <= least"),
        ("max_pixels pixels are no refusal", "crop[..., 0].size > most", "crop[..., 0].size >= most"),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_a_lower_limit_of_auc_under_the_floor_fails_a_first_revision_too",
        ("the limit of AUC is the lower end", "else difference.low", "else difference.high"),
        ("chance is an AUC of one half", "_low(chance.difference) + 0.5", "_low(chance.difference)"),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_test_cells_trained_on_under_another_patient_s_name_fail",
        ("patients go by the base's names", "cells.sha256.map(owner).fillna(cells.patient)", "cells.patient"),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_test_cells_trained_on_as_copies_in_other_files_fail "
        "test_a_test_cell_s_own_file_trained_on_beside_it_fails",
        (
            "copies that the base had, too, do not count",
            "matches[0] & ~matches[1]",
            "matches[0] & matches[1]",
        ),
        ("a turned copy is a copy", "for turns in range(4)", "for turns in range(3)"),
        ("a cell on two sides counts as trained on", "side == tables.TEST", "side != tables.TEST"),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_a_copy_more_of_what_the_base_has_learned_is_no_fault "
        "test_one_half_is_called_parasitised_and_47_5_percent_is_not "
        "test_figures_without_an_interval_are_not_comparable",
        ("a cell that the base has learned, too, is no copy", "matches[0] & ~matches[1]", "matches[0]"),
        ("a cell is called from the threshold on", "cells[side] >= limit", "cells[side] > limit"),
        ("the branch calls a cell from 0.5 on", "(p >= 0.5)", "(p > 0.5)"),
        ("the base calls a cell from 0.5 on, too", "(base_p >= 0.5)", "(base_p > 0.5)"),
        ("without an interval the value counts", "if math.isnan(difference.low)", "if False"),
    ),
    *of(
        "ci/comparison.py",
        "tests/ci/test_comparison.py test_an_operating_point_that_the_branch_gives_up_fails "
        "test_a_threshold_fixed_for_a_specificity_of_one_half_is_not_the_app_s_default",
        (
            "a point that is given up is lost",
            "thresholds.get(at, math.inf)",
            "thresholds.get(at, base_threshold)",
        ),
        ("no point takes the place of the default threshold", " | {DEFAULT_POINT: 0.5}", ""),
    ),
    *of(
        "ci/again.py",
        "tests/ci/test_again.py test_a_network_that_no_stage_train_makes_is_refused "
        "test_a_test_cell_that_lies_elsewhere_in_the_work_tree_is_not_there_for_training",
        ("the stage train makes the network", "if blind and revisions", "if False and revisions"),
        ("no other file is a test cell", "files.sha256(file) in hashes", "files.sha256(file) in ()"),
    ),
    *of(
        "ci/release.py",
        "tests/ci/test_release.py test_a_version_is_three_numbers_above_the_last "
        "test_a_bundle_of_synthetic_cells_is_refused test_the_last_release_is_the_highest_by_its_numbers "
        "test_a_gate_that_fails_needs_a_reason",
        ("a version is above the last", "_numbers(version) <= _numbers", "_numbers(version) < _numbers"),
        ("the last is the highest by numbers", "--sort=-version:refname", "--sort=-refname"),
        ("synthetic cells are not released", "    if released.record.synthetic:", "    if not released:"),
        ("a gate that fails needs a reason", "    if not override:", "    if override is None:"),
    ),
    *of(
        "ci/drift.py",
        "tests/ci/test_drift.py test_a_distance_at_the_limit_has_not_drifted",
        (
            "beyond the limit is drift",
            "drift.quantities.distance > limit",
            "drift.quantities.distance >= limit",
        ),
    ),
    *of(
        "app/verdict.py",
        "tests/app/test_verdict.py",
        ("a probability from 0.1 to 0.9 is unsure", "_UNSURE = (0.1, 0.9)", "_UNSURE = (0.2, 0.8)"),
        ("the unsure band reaches down to the threshold", "min(_UNSURE[0], self.threshold)", "_UNSURE[0]"),
        (
            "the unsure band reaches up to the threshold",
            "max(_UNSURE[1], min(self.threshold, 1.0))",
            "_UNSURE[1]",
        ),
        ("the ends of the unsure band belong to it", "low <= p <= high", "low < p < high"),
        (
            "a category is at the point's threshold",
            "labels.category(p, point.threshold)",
            "labels.category(p)",
        ),
        ("the side of the threshold is told", '"above" if p > point', '"above" if p < point'),
        ("fewer than 1", "if share < 1", "if share < 0"),
        ("more than 99", "if share > 99", "if share > 100"),
        (
            "another model's point is of the same specificity",
            "candidate.specificity == point.specificity",
            "candidate.threshold == point.threshold",
        ),
        ("a point's cost is what it calls wrongly", "100 * (1 - rate)", "100 * rate"),
        (
            "a point's cost is of its own rates",
            "scores if point.specificity is None else",
            "scores if True else",
        ),
        ("a rejected cell has no category", "    if answer.rejected is not None:", "    if False:"),
    ),
    *of(
        "app/batches.py",
        "tests/app/test_verdict.py",
        (
            "a cell that was turned away is not judged",
            "row.status == predict.PREDICTED]",
            "row.status != predict.UNREADABLE]",
        ),
        ("a share is of the judged cells", "share=positive / len(judged)", "share=positive / len(rows)"),
        (
            "second looks are counted",
            "sum(row.second_look for row in judged)",
            "sum(not row.second_look for row in judged)",
        ),
        (
            "a person should look where versions differ",
            "differ(rows) or any(row.second_look for row in rows)",
            "any(row.second_look for row in rows)",
        ),
        (
            "a person should look where a version is unsure",
            "differ(rows) or any(row.second_look for row in rows)",
            "differ(rows)",
        ),
        (
            "rejected and unreadable files are counted apart",
            "row.status == predict.REJECTED",
            "row.status == predict.UNREADABLE",
        ),
        ("the interval of a share is of 95 %", "z = 1.959964", "z = 1.644854"),
        (
            "an interval is of the judged cells",
            "wilson(positive, len(judged))",
            "wilson(positive, len(rows))",
        ),
        (
            "the least share takes rejected cells as healthy",
            "least=positive / cells",
            "least=positive / len(judged)",
        ),
        (
            "the largest share takes rejected cells as parasitised",
            "most=(positive + rejected) / cells",
            "most=positive / cells",
        ),
    ),
    *of(
        "app/cells.py",
        "tests/app/test_verdict.py",
        ("known cells score nothing", "card.open and not card.known", "card.open"),
        ("rejected cells score nothing", "card.answer.rejected is None]", "card.answer]"),
        (
            "the game calls at the chosen point",
            "verdict.of(card.answer, point,",
            "verdict.of(card.answer, verdict.HALF,",
        ),
    ),
    *of(
        "app/api.py",
        "tests/app/test_api.py",
        ("a threshold is from 0 to 1", "if 0 <= value <= 1:", "if 0 <= value:"),
    ),
    *of(
        "malaria/predict/rows.py",
        "tests/predict/test_rows.py",
        ("a category is at the asked threshold", "labels.category(p, threshold)", "labels.category(p)"),
        ("a rejected picture has no probability", "if reason is not None:", "if False:"),
        ("only few large pictures are held at once", "if held >= _CHUNK_BYTES:", "if False:"),
        (
            "a text that a spreadsheet takes for a formula is quoted",
            'return f"\'{text}" if',
            "return text if",
        ),
    ),
    *of(
        "malaria/predict/labelled.py",
        "tests/bundle/test_bundle.py test_evaluate_counts_what_is_turned_away_and_says_so "
        "test_evaluate_tells_the_network_before_calibration_from_the_network_after "
        "test_evaluate_s_brier_score_is_that_of_the_rows_that_it_writes",
        (
            "calibration is undone by the inverse temperature",
            "calibration.apply(p, 1 / record.temperature)",
            "calibration.apply(p, record.temperature)",
        ),
        (
            "a cell that is turned away counts in no figure",
            'judged = cells[cells.rejected == ""]',
            "judged = cells",
        ),
    ),
    *of(
        "malaria/predict/inputs.py",
        "tests/predict/test_inputs.py",
        ("a file too large is no cell", "source.size > _MAX_BYTES", "source.size > 2 * _MAX_BYTES"),
        ("zips in zips end somewhere", "_DEEPEST = 3", "_DEEPEST = 4"),
    ),
    *of(
        "malaria/predict/batch.py",
        "tests/predict/test_batch.py test_another_threshold_takes_over_nothing",
        (
            "rows of another threshold are not taken over",
            "job.bundle[bundle.RECORD], job.threshold)",
            "job.bundle[bundle.RECORD])",
        ),
    ),
)


def main() -> int:
    parser = new_parser("tests.rules", __doc__)
    parser.add_argument(
        "--changed",
        metavar="BASE",
        nargs="?",
        const=BEFORE,
        help="only rules whose file or guards differ from this revision (the commit before)",
    )
    base = parser.parse_args().changed
    chosen = RULES if base is None else since(base)
    check_places(RULES)
    if not chosen:
        print(f"No file of a rule or of its guards differs from {base}.")
        return 0
    begun = time.monotonic()
    noticed = sum(judged(chosen))
    print(f"{noticed} of {len(chosen)} changes were noticed, in {time.monotonic() - begun:.0f} s")
    return 0 if noticed == len(chosen) else 1


def since(base: str) -> tuple[Rule, ...]:
    """The rules whose file, or a file of whose guards, differs from the revision `base`.

    These are all rules if HEAD has no parent, as in a first commit or a shallow clone.
    """
    if base == BEFORE and programs.git("rev-list", "--count", "HEAD", cwd=ROOT) == "1":
        return RULES
    differing = set(programs.git("diff", "--name-only", base, cwd=ROOT).splitlines())
    files = {rule: {rule.file, *(guard.partition("::")[0] for guard in rule.guards)} for rule in RULES}
    return tuple(rule for rule in RULES if files[rule] & differing)


def check_places(rules: Sequence[Rule]) -> None:
    """Raise UserError unless the code of each rule occurs once in its file."""
    for rule in rules:
        times = (ROOT / rule.file).read_text(encoding="utf-8").count(rule.code)
        if times != 1:
            raise UserError(
                f"{rule.file} has {rule.code!r} {times} times, but the rule {rule.name!r} needs it once: "
                "give tests/rules.py its new place."
            )


def judged(rules: Sequence[Rule]) -> list[bool]:
    """Run the guards of each rule with its change, several rules at a time; return whether they fail.

    Raises:
        UserError: guards fail without any change, or no test runs.
    """
    os.environ |= ENVIRONMENT
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(os.cpu_count(), context, max_tasks_per_child=1) as pool,
    ):
        tree = copied(Path(folder, "tree"))
        runs = [pool.submit(run_guards, tree, Path(folder, "as it is"), guards_of(rules), None)]
        runs += [
            pool.submit(run_guards, tree, Path(folder, str(number)), rule.guards, rule)
            for number, rule in enumerate(rules)
        ]
        try:
            for rule, run in zip(rules, runs[1:], strict=True):
                status, said = run.result()
                print(f"{'red' if status == 1 else 'PASSES':6} {rule.file}: {rule.name}", flush=True)
                if status > 1:
                    raise UserError(f"{rule.file}: with the change of {rule.name!r} no test runs: {said}")
            status, said = runs[0].result()
            if status:
                raise UserError(f"Without any change guards fail, or are no tests: {said}")
        finally:
            pool.shutdown(cancel_futures=True)
        return [run.result()[0] == 1 for run in runs[1:]]


def guards_of(rules: Sequence[Rule]) -> tuple[str, ...]:
    """The guards of all rules, without duplicates."""
    found = dict.fromkeys(guard for rule in rules for guard in rule.guards)
    return tuple(guard for guard in found if "::" not in guard or guard.partition("::")[0] not in found)


def copied(folder: Path) -> Path:
    """Copy the files of the working tree that git does not ignore into `folder`, and return it."""
    for name in programs.git("ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run_guards(tree: Path, copy: Path, guards: Sequence[str], rule: Rule | None) -> tuple[int, str]:
    """Run guards in `copy`, a new copy of the tree with the change of `rule` (None: no change).

    Must have a process of its own, because it changes modules, sys.path and the working directory.

    Returns:
        pytest's exit status (0 passed, 1 failed, else nothing was tested) and its last line of output.
    """
    shutil.copytree(tree, copy, copy_function=os.link)
    if rule:
        text = (copy / rule.file).read_text(encoding="utf-8")
        (copy / rule.file).unlink()
        (copy / rule.file).write_text(text.replace(rule.code, rule.change), encoding="utf-8")
    # Import this project's modules from the copy, not from the tree that this function came from.
    for name in [
        name for name in sys.modules if name.partition(".")[0] in {one.name for one in tree.iterdir()}
    ]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    os.chdir(copy)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = pytest.main(["-x", "-p", "no:cacheprovider", "-p", "no:unraisableexception", *guards])
    return int(status), said.getvalue().strip().rpartition("\n")[2]


if __name__ == "__main__":
    run_and_exit(main)
