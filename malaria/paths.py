"""Where the pipeline's files lie, relative to the repository's root, in the order of its stages."""

from pathlib import Path

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")

RAW = Path("data/raw")
PROVENANCE = RAW / "provenance.json"
PATIENTS = "patients.csv"  # optional, beside the class folders: file,patient
SLIDES = "slides.csv"  # beside the class folders where the NLM's mapping files are: slides.Row
FIELDS = "fields.csv"  # beside the class folders where cells were cut out of fields: tables.FIELDS
FIELD_PICTURES = "fields"  # some of those fields with outlines

CELLS = Path("data/cells.csv")
AUDIT = Path("reports/audit.json")
AUDIT_PAGE = Path("reports/audit.html")

SPLITS = Path("data/splits.csv")
SIDES = Path("data/sides.json")  # who of your own patients was put where: git keeps it
SPLIT_SUMMARY = Path("reports/split.json")

PACKED = Path("data/packed")
LABORATORIES = Path("data/laboratories")  # packed, too

MODEL = Path("models/model.keras")
TRAINING = Path("reports/train")
PROCESSOR = TRAINING / "processor.txt"  # the kind of processor that it ran on

# What a running stage keeps for the next run, should it be killed: git-ignored, and no stage's result.
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

# What cross-validation and ablation leave: no stage makes it.
CROSSVAL = Path("reports/crossval")
ABLATION = Path("reports/ablation")
