"""A pipeline in miniature: stages, outputs and tables of the real one's names, made by one short script."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.project import commit, git, run

# Stage: what it reads (beside the script), and what it writes.
STAGES: dict[str, tuple[list[str], list[Any]]] = {
    "fetch": ([], ["data/raw"]),
    "audit": (["data/raw"], ["data/cells.csv"]),
    "split": (
        ["data/cells.csv"],
        ["data/splits.csv", "reports/split.json", {"data/sides.json": {"cache": False}}],
    ),
    "pack": (["data/raw", "data/cells.csv"], ["data/packed"]),
    "train": (["data/packed", "data/splits.csv"], ["models/model.keras"]),
    "export": (["models/model.keras", "reports/split.json"], ["models/malaria-cells"]),
}

# The network is the text of the train cells. A cell's text is its number; every third is for testing.
SCRIPT = """
import csv, hashlib, json, sys
from pathlib import Path

RAW, CELLS, SPLITS, PACKED = map(Path, ("data/raw", "data/cells.csv", "data/splits.csv", "data/packed"))
SUMMARY, SIDES, MODEL = map(Path, ("reports/split.json", "data/sides.json", "models/model.keras"))
BUNDLE = Path("models/malaria-cells")


def read(path):
    return list(csv.DictReader(path.open()))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def table(path, columns, rows):
    write(path, "".join(",".join(row) + "\\n" for row in [columns.split(","), *rows]))


def fetch():
    for number in range(12):
        write(RAW / ("Parasitized", "Uninfected")[number % 2] / f"{number}.png", f"cell {number};")


def audit():
    table(CELLS, "path,label,patient,slide,width,height,pages,bits,sha256,status,reason", [
        [str(path.relative_to(RAW)), path.parent.name, f"P{path.stem}", "", "9", "9", "1", "0",
         hashlib.sha256(path.read_bytes()).hexdigest(), "ok", ""]
        for path in sorted(RAW.rglob("*.png"))
    ])


def split():
    rows = [[row["path"], row["label"], row["patient"], ("train", "val", "test")[number % 3]]
            for number, row in enumerate(read(CELLS))]
    table(SPLITS, "path,label,patient,split", rows)
    write(SUMMARY, json.dumps({"by_patient": True}))
    write(SIDES, "{}")


def pack():
    for row in read(CELLS):
        write(PACKED / row["path"], (RAW / row["path"]).read_text())


def train():
    cells = [row["path"] for row in read(SPLITS) if row["split"] == "train"]
    write(MODEL, "".join((PACKED / path).read_text() for path in cells))


def export():
    by_patient = json.loads(SUMMARY.read_text())["by_patient"]
    write(BUNDLE / "network.tflite", "network of " + MODEL.read_text())
    write(BUNDLE / "MODEL_CARD.md", str(by_patient))
    write(BUNDLE / "bundle.json", "{}")


globals()[sys.argv[1]]()
"""


def make(folder: Path) -> None:
    """Write the pipeline's repository into a folder, run it, and commit its results."""
    folder.mkdir()
    (folder / "stage.py").write_text(SCRIPT)
    stages = {
        name: {"cmd": f"python stage.py {name}", "deps": ["stage.py", *reads], "outs": writes}
        for name, (reads, writes) in STAGES.items()
    }
    write_stages(folder, stages)
    git("init", "-q", ".", cwd=folder)
    run("dvc", "init", "-q", cwd=folder)
    reproduce(folder)


def stages_of(folder: Path) -> dict[str, Any]:
    """The stages of the repository's dvc.yaml, for a test to change."""
    stages: dict[str, Any] = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    return stages


def write_stages(folder: Path, stages: dict[str, Any]) -> None:
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def edit(folder: Path, before: str, after: str) -> None:
    """Replace a text of the script that occurs once."""
    text = (folder / "stage.py").read_text()
    assert text.count(before) == 1
    (folder / "stage.py").write_text(text.replace(before, after))


def reproduce(folder: Path) -> None:
    """Run what has changed, and commit the results."""
    run("dvc", "repro", "-q", cwd=folder)
    commit(folder, "results")


def md5(folder: Path, stage: str) -> str:
    """The hash that dvc.lock gives for the last output of a stage."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    return str(lock["stages"][stage]["outs"][-1]["md5"])
