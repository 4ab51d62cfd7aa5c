"""Read annotations of whole fields: boxes, outlines or points, in the formats of common tools.

The formats are COCO, Pascal VOC, YOLO, LabelMe, CVAT, CSV tables of boxes or points, and a list of fields
with their objects (`annotations.json` with `image_name`, `objects` or `points`, and `ignore`).
"""

import csv
import itertools
import json
import os
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from malaria import files, tables
from malaria.errors import UserError
from malaria.labels import PARASITIZED, UNINFECTED
from malaria.paths import PATIENTS

# What a class may stand for besides the two labels: a red cell without a label, or no red cell.
UNLABELLED, OTHER = "Unlabelled", "Other"
_OF_LABEL = {
    PARASITIZED: "parasitized parasitised infected malaria parasite ring trophozoite schizont gametocyte",
    UNINFECTED: "uninfected healthy normal",
    UNLABELLED: "difficult unlabelled unknown rbc cell erythrocyte",
    OTHER: "other leukocyte leucocyte wbc platelet thrombocyte artefact artifact",
}
KNOWN = {name: label for label, names in _OF_LABEL.items() for name in names.split()} | {
    "red blood cell": UNINFECTED,  # the healthy ones in BBBC041 and IML, whose other classes are stages
    "white blood cell": OTHER,
}
_SHARE = re.compile(r"[01]?\.?[0-9]+(e-[0-9]+)?")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_COLUMNS = {  # of a table, in lower case
    "image": ("image", "file", "filename", "image_name", "field"),
    "name": ("label", "class", "type", "name"),
    "x": ("bx", "x", "xmin", "x_min", "left"),  # beside BX, ImageJ's X is the middle
    "y": ("by", "y", "ymin", "y_min", "top"),
    "w": ("w", "width", "box_width"),
    "h": ("h", "height", "box_height"),
    "x2": ("xmax", "x_max", "right"),
    "y2": ("ymax", "y_max", "bottom"),
}
Box = tuple[float, float, float, float]  # x, y, width and height, px
# Files that are no annotations: the fields' patients, and the names of YOLO's classes, also Label Studio's.
_OTHER_TABLES = (PATIENTS, "classes.txt", "notes.json")
# For errors.
_FORMS = "COCO, Pascal VOC, YOLO, LabelMe, CVAT or CSV"
_AGAIN = f"export it again, as {_FORMS}, or take it out of the folder"


@dataclass(frozen=True)
class Mark:
    """One annotated thing: `box` is x, y, width, height in px; a point has width and height 0.

    `label` is what its class stands for: a label, UNLABELLED or OTHER. `ignore` marks a place where the
    annotation is known to be incomplete.
    """

    label: str
    box: Box
    ignore: bool = False


@dataclass(frozen=True)
class Annotated:
    """A field's image and the marks on it."""

    image: Path
    marks: tuple[Mark, ...]


# Image, class, box (None: there is the image, and no mark), ignore.
Raw = tuple[str, str, list[float] | None, bool]
Item = TypeVar("Item")
Place = list[str]  # what is being read, for errors: the last entry counts


def read(path: Path, classes: Mapping[str, str] | None = None, unknown: str = "") -> list[Annotated]:
    """The annotated fields of a file, or of a folder of files, sorted by image.

    Args:
        classes: what class names stand for, as data.classes; they go before KNOWN. Case does not matter.
        unknown: what all other classes stand for; if empty, they are an error.

    Raises:
        UserError: there is no annotation, or one is of an unknown format, damaged, of an unknown class, or of
            a missing image; the message names the file, and the line or the entry. Or two files mark the same
            things.
    """
    known = KNOWN | {name.lower(): label for name, label in (classes or {}).items()}
    fields: dict[Path, dict[Path, list[Mark]]] = {}  # by image, and by the file of annotations
    for file in annotation_files(path):
        at: Place = ["its start"]
        given: dict[Path, Path] = {}
        found: dict[str, Path] = {}
        try:
            for image, name, box, ignore in _entries(file, at):
                # Each looks in many places, and a field has hundreds of marks.
                if image not in found:
                    found[image] = _image(file, image)
                path_here = found[image]
                if given.setdefault(path_here, Path(image)) != Path(image):
                    raise ValueError(f"{given[path_here]} and {image} would both be {path_here}")
                marks = fields.setdefault(path_here, {}).setdefault(file, [])
                if box is not None:
                    name = str(name).strip()
                    marks.append(_mark(name, box, ignore, known.get(name.lower(), unknown)))
        except (json.JSONDecodeError, yaml.YAMLError, ET.ParseError, csv.Error) as error:
            told = " ".join(str(error).split())
            raise UserError(f"{file}, {at[-1]}: it is damaged ({told}); export it again.") from None
        except UnicodeError:
            raise UserError(
                f"{file}, {at[-1]}: it is not UTF-8; save it as such (in Excel as CSV UTF-8)."
            ) from None
        except KeyError as error:
            raise UserError(f"{file}, {at[-1]}: {error} is missing; {_AGAIN}.") from None
        except (TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
            raise UserError(f"{file}, {at[-1]}: it is of no known form ({error}); {_AGAIN}.") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{file}, {at[-1]}: {error}.") from None
    if not fields:
        raise UserError(f"{path} holds no annotated field: name a file or folder of {_FORMS}.")
    for picture, marks_of in fields.items():
        _check_differ(picture, marks_of)
    return [Annotated(one, tuple(itertools.chain(*fields[one].values()))) for one in sorted(fields)]


def _check_differ(image: Path, marks_of: Mapping[Path, Sequence[Mark]]) -> None:
    """Raise UserError if two files mark the same things, as exports in two formats and copies do."""
    for one, other in itertools.combinations(marks_of, 2):
        if any(_alike(mark.box, of.box) for mark in marks_of[one] for of in marks_of[other]):
            raise UserError(f"{one} and {other} both mark the same things on {image}: keep one of them.")


def _alike(one: Box, other: Box) -> bool:
    """Whether two boxes are of the same thing: their borders are within a pixel or a quarter of a side."""
    (x, y, w, h), (x2, y2, w2, h2) = one, other
    across, down = max(w / 4, 1), max(h / 4, 1)
    return max(abs(x - x2), abs(x + w - x2 - w2)) <= across and max(abs(y - y2), abs(y + h - y2 - h2)) <= down


def _mark(name: str, box: list[float], ignore: bool, label: str) -> Mark:
    """One annotated thing; ValueError if the box is impossible or the class unknown."""
    # A box within the first pixel is in shares of the image's sides, as other formats have them.
    if len(box) != 4 or not all(abs(v) < 1e6 for v in box) or min(box[2:]) < 0 or 0 < max(box) <= 1:
        raise ValueError(f"its box {box} is no x, y, width and height in px")
    x, y, w, h = box
    if not ignore and not label:
        raise ValueError(f"the class {name!r} is unknown: name it under data.classes in params.yaml")
    return Mark(OTHER if ignore else label, (x, y, w, h), ignore)


def check_size(field: Annotated, width: int, height: int) -> None:
    """Raise UserError if a mark lies outside of the picture, which then is not the one that was annotated."""
    for x, y, _, _ in (mark.box for mark in field.marks):
        if x > width or y > height:
            raise UserError(
                f"{field.image}: a mark at {x:.0f}, {y:.0f} lies outside of its {width} x {height} px: bring "
                "the picture as it was annotated, or correct the mark."
            )


def annotation_files(path: Path) -> list[Path]:
    """The annotation files: the one given, or those below a folder."""
    if path.is_file():
        return [path]
    if (path / "annotations.json").is_file():
        return [path / "annotations.json"]
    found = sorted(Path(above, name) for above, _, names in files.walk(path) for name in names)
    kept = [file for file in found if not files.is_litter(file.relative_to(path).as_posix())]
    return [file for file in kept if file.name not in _OTHER_TABLES and _is_annotation(file)]


def _is_annotation(file: Path) -> bool:
    """Whether a file is one of annotations, by its suffix.

    A text file is if it lies beside an image, or begins with a class number and at least four shares, as
    YOLO's labels do.
    """
    if file.suffix.lower() != ".txt":
        return file.suffix.lower() in (".json", ".xml", ".csv")
    if _beside(file, file.stem):
        return True
    first = file.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].split()
    return len(first) > 4 and first[0].isdecimal() and all(_SHARE.fullmatch(share) for share in first[1:])


def _entries(file: Path, at: Place) -> Iterator[Raw]:
    """The entries of a file; `at` records which comes next: `line 3`, `annotation 3`."""
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return _table(file, at)
    if suffix == ".txt":
        return _yolo(file, at)
    if suffix == ".xml":
        root = ET.fromstring(file.read_bytes())
        return _cvat(root, at) if root.tag == "annotations" else _voc(root, at)
    if suffix != ".json":
        raise ValueError("it is no .json, .xml, .csv or .txt file: unpack an archive, and name the folder")
    content = json.loads(file.read_bytes())
    if isinstance(content, list):
        return _listed(content, at)
    return _labelme(content, at) if "shapes" in content else _coco(content, at)


def _numbered(things: Iterable[Item], kind: str, at: Place) -> Iterator[Item]:
    """The things one by one; `at` records the number of each."""
    for number, thing in enumerate(things, 1):
        at.append(f"{kind} {number}")
        yield thing


def _listed(content: list[dict[str, Any]], at: Place) -> Iterator[Raw]:
    """annotations.json: fields with objects, points and places to ignore."""
    for field in _numbered(content, "entry", at):
        image = field["image_name"]
        yield image, "", None, False
        for thing in [*field.get("objects", []), *field.get("points", [])]:
            box = thing.get("bbox") or {**thing, "w": 0, "h": 0}
            yield image, thing["type"], [float(box[k]) for k in "xywh"], False
        for box in field.get("ignore", []):
            yield image, "", [float(box.get("bbox", box)[k]) for k in "xywh"], True


def _coco(content: dict[str, Any], at: Place) -> Iterator[Raw]:
    """COCO: boxes, or those round outlines; crowds are places to ignore."""
    names = {f"category {kind['id']}": kind["name"] for kind in content["categories"]}
    images = {f"image {image['id']}": image["file_name"] for image in content["images"]}
    if len(names) < len(content["categories"]) or len(images) < len(content["images"]):
        raise ValueError("several of its images or categories have one id")
    for image in images.values():
        yield image, "", None, False
    for thing in _numbered(content["annotations"], "annotation", at):
        outlines = thing.get("segmentation")
        if "bbox" not in thing and isinstance(outlines, list):
            thing["bbox"] = _around(
                pair for one in outlines for pair in zip(one[::2], one[1::2], strict=True)
            )
        box, crowd = [float(v) for v in thing["bbox"]], bool(thing.get("iscrowd"))
        yield images[f"image {thing['image_id']}"], names[f"category {thing['category_id']}"], box, crowd


def _labelme(content: dict[str, Any], at: Place) -> Iterator[Raw]:
    """LabelMe: the boxes round its shapes."""
    image = content["imagePath"]
    yield image, "", None, False
    for shape in _numbered(content["shapes"], "shape", at):
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if shape.get("shape_type") == "circle":
            (x, y), (x2, y2) = points
            radius = ((x2 - x) ** 2 + (y2 - y) ** 2) ** 0.5
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        yield image, shape["label"], _around(points), False


def _voc(root: ET.Element, at: Place) -> Iterator[Raw]:
    """Pascal VOC: the boxes of one field."""
    image = _text(root, "filename")
    yield image, "", None, False
    for thing in _numbered(root.iter("object"), "object", at):
        x, y, x2, y2 = (float(_text(thing, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
        yield image, _text(thing, "name"), [x, y, x2 - x, y2 - y], False


def _cvat(root: ET.Element, at: Place) -> Iterator[Raw]:
    """CVAT for images: boxes, ellipses, points, and the boxes round other shapes."""
    if root.find("track") is not None:
        raise ValueError("it is of a video: export it as CVAT for images")
    for image in root.iter("image"):
        name = image.attrib["name"]
        at.append(f"image {name}")
        yield name, "", None, False
        for shape in image:
            given = shape.attrib
            if shape.tag == "box":
                x, y, x2, y2 = (float(given[k]) for k in ("xtl", "ytl", "xbr", "ybr"))
                yield name, given["label"], [x, y, x2 - x, y2 - y], False
            elif shape.tag == "ellipse":
                x, y, rx, ry = (float(given[k]) for k in ("cx", "cy", "rx", "ry"))
                yield name, given["label"], [x - rx, y - ry, 2 * rx, 2 * ry], False
            elif shape.tag == "mask":
                box = [float(given[k]) for k in ("left", "top", "width", "height")]
                yield name, given["label"], box, False
            elif shape.tag != "tag":
                points = [[float(v) for v in point.split(",")] for point in given["points"].split(";")]
                # Each point of a points mark is a cell; the points of a polygon are its outline.
                for group in [[point] for point in points] if shape.tag == "points" else [points]:
                    yield name, given["label"], _around(group), False


def _yolo(file: Path, at: Place) -> Iterator[Raw]:
    """YOLO: each line is a box or an outline, in shares of the image's sides."""
    # Not above, because scikit-image takes a second, and no other form needs it.
    from malaria.fields import find

    image = _image(file, file.stem)
    yield str(image), "", None, False
    names = {f"class {number}": name for number, name in _yolo_names(file, at).items()}
    height, width, _ = find.read(image).shape
    for line in _numbered(file.read_text(encoding="utf-8-sig").splitlines(), "line", at):
        if not line.strip():
            continue
        kind, *shares = line.split()
        values = [float(share) for share in shares]
        if len(values) == 4:
            x, y, w, h = values
            values = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        # Rounding may take a box over the border.
        if len(values) < 4 or len(values) % 2 or not all(-0.01 <= value <= 1.01 for value in values):
            raise ValueError(f"its numbers {values} are no box or outline in shares of the sides, 0 to 1")
        points = zip(values[::2], values[1::2], strict=True)
        box = _around([(x * width, y * height) for x, y in points])
        # As NumPy writes it, a whole number may be 1.000000e+00.
        yield str(image), names[f"class {float(kind):g}"], box, False


def _yolo_names(file: Path, at: Place) -> Mapping[int, str]:
    """Class names by number, from classes.txt, obj.names or data.yaml, beside the file or above it."""
    for folder in list(file.parents)[:4]:
        for listed in (folder / "classes.txt", folder / "obj.names"):
            if listed.is_file():
                return dict(enumerate(listed.read_text(encoding="utf-8-sig").split("\n")))
        if (folder / "data.yaml").is_file():
            at.append(f"its classes in {folder / 'data.yaml'}")
            names = yaml.safe_load((folder / "data.yaml").read_bytes())["names"]
            return names if isinstance(names, dict) else dict(enumerate(names))
    raise ValueError("there is no classes.txt, obj.names or data.yaml beside it that names its classes")


def _table(file: Path, at: Place) -> Iterator[Raw]:
    """A CSV table: each row is a box or a point, in columns named as in _COLUMNS."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        separator = tables.separator(stream.readline())
        stream.seek(0)
        rows = csv.DictReader(stream, strict=True, delimiter=separator)
        given = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        found = {key: next((given[n] for n in names if n in given), None) for key, names in _COLUMNS.items()}
        missing = [key for key in ("image", "name", "x", "y") if found[key] is None]
        if missing:
            accepted = "; ".join(" or ".join(_COLUMNS[key]) for key in missing)
            raise ValueError(
                f"its columns are {', '.join(given)}, but it needs also {accepted}; rename them, or take it "
                "out of the folder"
            )

        for row in rows:
            at.append(f"line {rows.line_num}")
            value = {key: (row[column] or "").strip() for key, column in found.items() if column is not None}
            if not any(value.values()):
                continue
            # Where decimals have commas, columns do not.
            if separator != ",":
                value |= {key: value[key].replace(",", ".") for key in value.keys() - {"image", "name"}}
            x, y = float(value["x"]), float(value["y"])
            w = float(value["x2"]) - x if "x2" in value else float(value.get("w", 0))
            h = float(value["y2"]) - y if "y2" in value else float(value.get("h", 0))
            yield value["image"], value["name"], [x, y, w, h], False


def _around(points: Iterable[Any]) -> list[float]:
    """The box round points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _text(element: ET.Element, path: str) -> str:
    """The text of an element below this one; KeyError where it is missing or empty."""
    if text := (element.findtext(path) or "").strip():
        return text
    raise KeyError(path)


def _image(file: Path, name: str) -> Path:
    """The image that an annotation is of; ValueError where there is none."""
    if image := _beside(file, name.replace("\\", "/")):
        return image
    raise ValueError(f"the image {name} is neither beside it nor in a folder fields, images or JPEGImages")


def _beside(file: Path, name: str) -> Path | None:
    """The image `name`, with or without its suffix, beside `file` or in a folder of images."""
    above, over = file.parent, file.parent.parent
    folders = [above, above / "fields", above / "images", over / "images", over, over / "JPEGImages"]
    # Of labels/train/a.txt, and of annotations/instances_train.json: images/train.
    folders += [over.parent / "images" / above.name, over / "images" / file.stem.rpartition("_")[2]]
    # macOS stores accents decomposed, other systems as they were typed.
    composed = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    places = (
        Path(os.path.normpath(folder / f"{given}{suffix}"))
        for folder in folders
        for one in dict.fromkeys([name, *composed])
        for given in (one, Path(one).name)
        for suffix in ("", *_IMAGES, *map(str.upper, _IMAGES))
    )
    return next((image for image in places if image.suffix.lower() in _IMAGES and image.is_file()), None)


def images_below(folder: Path) -> set[Path]:
    """All images below a folder, by their names; none if it is a file."""
    found = {path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES}
    return {path for path in found if not files.is_litter(path.relative_to(folder).as_posix())}
