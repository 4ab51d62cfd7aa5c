"""Where the pipeline's files lie, relative to the repository's root, in the order of its stages."""

from pathlib import Path

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")

RAW = Path("data/raw")
PROVENANCE = RAW / "provenance.json"
PATIENTS = "patients.csv"  # optional, beside the class folders: file,patient
SLIDES = "slides.csv"  # beside the class folders, if the NLM's mapping files are there: tables.SLIDES
FIELDS = "fields.csv"  # beside the class folders, if cells were cut out of fields: tables.FIELDS
FIELD_PICTURES = "fields"  # a folder with some of those fields, with outlined cells

CELLS = Path("data/cells.csv")
AUDIT = Path("reports/audit.json")
AUDIT_PAGE = Path("reports/audit.html")

SPLITS = Path("data/splits.csv")
SIDES = Path("data/sides.json")  # the side of each of your own patients; kept in git
SPLIT_SUMMARY = Path("reports/split.json")

PACKED = Path("data/packed")
LABORATORIES = Path("data/laboratories")  # other laboratories' cells, packed too

MODEL = Path("models/model.keras")
TRAINING = Path("reports/train")
PROCESSOR = TRAINING / "processor.txt"  # the kind of processor that training ran on

# State by which the next run resumes a stage that was killed: git-ignored, and no stage's result.
RUNNING = Path(".running")
CHECKPOINT = RUNNING / "training.npz"

METRICS = Path("reports/metrics.json")
SUMMARY = Path("reports/summary.json")  # the few figures that `dvc exp show` and `dvc metrics` show
PLOTS = Path("reports/plots")
PREDICTIONS = Path("reports/predictions.csv")

BUNDLE = Path("models/malaria-cells")
EXTERNAL = Path("reports/external.json")
PRETRAINED = Path("models/pretrained")

# Where the files of this project may lie: the current folder, the checkout of this package, or inside the
# package, where an installed one has the pretrained bundle and its parameters.
ROOTS = (Path(), Path(__file__).parents[1], Path(__file__).parent, Path(__file__).parent / PRETRAINED)
LABEL_AUDIT = PRETRAINED / "label_audit.csv"  # the published ranking of labels

# Results of cross-validation, which no stage makes.
CROSSVAL = Path("reports/crossval")
