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
_CLASS_NAMES = {
    PARASITIZED: "parasitized parasitised infected malaria parasite ring trophozoite schizont gametocyte",
    UNINFECTED: "uninfected healthy normal",
    UNLABELLED: "difficult unlabelled unknown rbc cell erythrocyte",
    OTHER: "other leukocyte leucocyte wbc platelet thrombocyte artefact artifact",
}
KNOWN_CLASSES = {name: label for label, names in _CLASS_NAMES.items() for name in names.split()} | {
    "red blood cell": UNINFECTED,  # the healthy ones in BBBC041 and IML, whose other classes are stages
    "white blood cell": OTHER,
}
_SHARE = re.compile(r"[01]?\.?[0-9]+(e-[0-9]+)?")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
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
# Files without annotations: the fields' patients, and the names of YOLO's classes, also Label Studio's.
_NOT_ANNOTATIONS = (PATIENTS, "classes.txt", "notes.json")
# For errors.
_FORMATS = "COCO, Pascal VOC, YOLO, LabelMe, CVAT or CSV"
_ADVICE = f"export it again, as {_FORMATS}, or take it out of the folder"


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
class AnnotatedField:
    """A field's image and the marks on it."""

    image: Path
    marks: tuple[Mark, ...]


# Image, class, box (None: the field has this image; the entry is no mark), ignore.
Entry = tuple[str, str, list[float] | None, bool]
Item = TypeVar("Item")
Position = list[str]  # what is being read, for errors; the last item counts


def read(path: Path, classes: Mapping[str, str] | None = None, unknown: str = "") -> list[AnnotatedField]:
    """The annotated fields of a file, or of a folder of files, sorted by image.

    Args:
        classes: what class names stand for, as data.classes; they go before KNOWN_CLASSES. Case is ignored.
        unknown: what all other classes stand for; if empty, they are an error.

    Raises:
        UserError: there is no annotation, or one is of an unknown format, damaged, of an unknown class, or of
            a missing image; the message names the file, and the line or the entry. Or two files mark the same
            things.
    """
    known = KNOWN_CLASSES | {name.lower(): label for name, label in (classes or {}).items()}
    fields: dict[Path, dict[Path, list[Mark]]] = {}  # by image, and by the file of annotations
    for file in annotation_files(path):
        position: Position = ["its start"]
        images: dict[str, Path] = {}  # by their names in the file
        names: dict[Path, Path] = {}  # by image
        try:
            for name, kind, box, ignore in _entries(file, position):
                # A search tries many paths, and a field has hundreds of marks.
                if name not in images:
                    images[name] = _find_image(file, name)
                image = images[name]
                if names.setdefault(image, Path(name)) != Path(name):
                    raise ValueError(f"{names[image]} and {name} would both be {image}")
                marks = fields.setdefault(image, {}).setdefault(file, [])
                if box is not None:
                    kind = str(kind).strip()
                    marks.append(_mark(kind, box, ignore, known.get(kind.lower(), unknown)))
        except (json.JSONDecodeError, yaml.YAMLError, ET.ParseError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{file}, {position[-1]}: it is damaged ({reason}); export it again.") from None
        except UnicodeError:
            raise UserError(
                f"{file}, {position[-1]}: it is not UTF-8; save it as such (in Excel as CSV UTF-8)."
            ) from None
        except KeyError as error:
            raise UserError(f"{file}, {position[-1]}: {error} is missing; {_ADVICE}.") from None
        except (TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
            raise UserError(f"{file}, {position[-1]}: it is of no known form ({error}); {_ADVICE}.") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{file}, {position[-1]}: {error}.") from None
    if not fields:
        raise UserError(f"{path} holds no annotated field: name a file or folder of {_FORMATS}.")
    for image, marks_by_file in fields.items():
        _check_marked_once(image, marks_by_file)
    return [
        AnnotatedField(image, tuple(itertools.chain(*fields[image].values()))) for image in sorted(fields)
    ]


def _check_marked_once(image: Path, marks_by_file: Mapping[Path, Sequence[Mark]]) -> None:
    """Raise UserError if two files mark the same things, as exports in two formats and copies do."""
    for first, second in itertools.combinations(marks_by_file, 2):
        pairs = itertools.product(marks_by_file[first], marks_by_file[second])
        if any(_alike(mark.box, other.box) for mark, other in pairs):
            raise UserError(f"{first} and {second} both mark the same things on {image}: keep one of them.")


def _alike(box: Box, other: Box) -> bool:
    """Whether two boxes are of the same thing: their borders are within a pixel or a quarter of a side."""
    (x, y, w, h), (x2, y2, w2, h2) = box, other
    x_shift = max(abs(x - x2), abs(x + w - x2 - w2))
    y_shift = max(abs(y - y2), abs(y + h - y2 - h2))
    return x_shift <= max(w / 4, 1) and y_shift <= max(h / 4, 1)


def _mark(kind: str, box: list[float], ignore: bool, label: str) -> Mark:
    """One annotated thing; ValueError if the box is impossible or the class unknown."""
    # A box within the first pixel is in shares of the image's sides, as other formats have them.
    if len(box) != 4 or not all(abs(v) < 1e6 for v in box) or min(box[2:]) < 0 or 0 < max(box) <= 1:
        raise ValueError(f"its box {box} is no x, y, width and height in px")
    x, y, w, h = box
    if not ignore and not label:
        raise ValueError(f"the class {kind!r} is unknown: name it under data.classes in params.yaml")
    return Mark(OTHER if ignore else label, (x, y, w, h), ignore)


def check_size(field: AnnotatedField, width: int, height: int) -> None:
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
    paths = sorted(Path(folder, name) for folder, _, names in files.walk(path) for name in names)
    paths = [file for file in paths if not files.is_litter(file.relative_to(path).as_posix())]
    return [file for file in paths if file.name not in _NOT_ANNOTATIONS and _is_annotation(file)]


def _is_annotation(file: Path) -> bool:
    """Whether a file holds annotations, by its suffix.

    A text file does if it lies beside an image, or begins with a class number and at least four shares, as
    YOLO's labels do.
    """
    if file.suffix.lower() != ".txt":
        return file.suffix.lower() in (".json", ".xml", ".csv")
    if _image_beside(file, file.stem):
        return True
    numbers = file.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].split()
    return len(numbers) > 4 and numbers[0].isdecimal() and all(map(_SHARE.fullmatch, numbers[1:]))


def _entries(file: Path, position: Position) -> Iterator[Entry]:
    """The entries of a file; `position` records which comes next: `line 3`, `annotation 3`."""
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return _table(file, position)
    if suffix == ".txt":
        return _yolo(file, position)
    if suffix == ".xml":
        root = ET.fromstring(file.read_bytes())
        return _cvat(root, position) if root.tag == "annotations" else _voc(root, position)
    if suffix != ".json":
        raise ValueError("it is no .json, .xml, .csv or .txt file: unpack an archive, and name the folder")
    content = json.loads(file.read_bytes())
    if isinstance(content, list):
        return _field_list(content, position)
    return _labelme(content, position) if "shapes" in content else _coco(content, position)


def _numbered(items: Iterable[Item], word: str, position: Position) -> Iterator[Item]:
    """The items one by one; `position` records the number of each, after `word`."""
    for number, item in enumerate(items, 1):
        position.append(f"{word} {number}")
        yield item


def _field_list(content: list[dict[str, Any]], position: Position) -> Iterator[Entry]:
    """annotations.json: fields with objects, points and places to ignore."""
    for field in _numbered(content, "entry", position):
        image = field["image_name"]
        yield image, "", None, False
        for item in [*field.get("objects", []), *field.get("points", [])]:
            box = item.get("bbox") or {**item, "w": 0, "h": 0}
            yield image, item["type"], [float(box[k]) for k in "xywh"], False
        for box in field.get("ignore", []):
            yield image, "", [float(box.get("bbox", box)[k]) for k in "xywh"], True


def _coco(content: dict[str, Any], position: Position) -> Iterator[Entry]:
    """COCO: boxes, or the boxes round outlines; crowds are places to ignore."""
    names = {f"category {category['id']}": category["name"] for category in content["categories"]}
    images = {f"image {image['id']}": image["file_name"] for image in content["images"]}
    if len(names) < len(content["categories"]) or len(images) < len(content["images"]):
        raise ValueError("several of its images or categories have one id")
    for image in images.values():
        yield image, "", None, False
    for item in _numbered(content["annotations"], "annotation", position):
        outlines = item.get("segmentation")
        if "bbox" not in item and isinstance(outlines, list):
            points = (xy for outline in outlines for xy in zip(outline[::2], outline[1::2], strict=True))
            item["bbox"] = _bounding_box(points)
        box, crowd = [float(v) for v in item["bbox"]], bool(item.get("iscrowd"))
        yield images[f"image {item['image_id']}"], names[f"category {item['category_id']}"], box, crowd


def _labelme(content: dict[str, Any], position: Position) -> Iterator[Entry]:
    """LabelMe: the boxes round its shapes."""
    image = content["imagePath"]
    yield image, "", None, False
    for shape in _numbered(content["shapes"], "shape", position):
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if shape.get("shape_type") == "circle":
            (x, y), (x2, y2) = points
            radius = ((x2 - x) ** 2 + (y2 - y) ** 2) ** 0.5
            points = [(x - radius, y - radius), (x + radius, y + radius)]
        yield image, shape["label"], _bounding_box(points), False


def _voc(root: ET.Element, position: Position) -> Iterator[Entry]:
    """Pascal VOC: the boxes of one field."""
    image = _text(root, "filename")
    yield image, "", None, False
    for item in _numbered(root.iter("object"), "object", position):
        x, y, x2, y2 = (float(_text(item, f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
        yield image, _text(item, "name"), [x, y, x2 - x, y2 - y], False


def _cvat(root: ET.Element, position: Position) -> Iterator[Entry]:
    """CVAT for images: boxes, ellipses, points, and the boxes round other shapes."""
    if root.find("track") is not None:
        raise ValueError("it is of a video: export it as CVAT for images")
    for image in root.iter("image"):
        name = image.attrib["name"]
        position.append(f"image {name}")
        yield name, "", None, False
        for shape in image:
            attributes = shape.attrib
            if shape.tag == "box":
                x, y, x2, y2 = (float(attributes[k]) for k in ("xtl", "ytl", "xbr", "ybr"))
                yield name, attributes["label"], [x, y, x2 - x, y2 - y], False
            elif shape.tag == "ellipse":
                x, y, rx, ry = (float(attributes[k]) for k in ("cx", "cy", "rx", "ry"))
                yield name, attributes["label"], [x - rx, y - ry, 2 * rx, 2 * ry], False
            elif shape.tag == "mask":
                box = [float(attributes[k]) for k in ("left", "top", "width", "height")]
                yield name, attributes["label"], box, False
            elif shape.tag != "tag":
                points = [[float(v) for v in point.split(",")] for point in attributes["points"].split(";")]
                # Each point of a points mark is a cell; the points of a polygon are its outline.
                for group in [[point] for point in points] if shape.tag == "points" else [points]:
                    yield name, attributes["label"], _bounding_box(group), False


def _yolo(file: Path, position: Position) -> Iterator[Entry]:
    """YOLO: each line is a box or an outline, in shares of the image's sides."""
    # Not above, because scikit-image takes a second to import, and no other format needs it.
    from malaria.fields import find

    image = _find_image(file, file.stem)
    yield str(image), "", None, False
    names = {f"class {number}": name for number, name in _yolo_names(file, position).items()}
    height, width, _ = find.read(image).shape
    for line in _numbered(file.read_text(encoding="utf-8-sig").splitlines(), "line", position):
        if not line.strip():
            continue
        kind, *numbers = line.split()
        shares = [float(number) for number in numbers]
        if len(shares) == 4:
            x, y, w, h = shares
            shares = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        # Rounding may take a box over the border.
        if len(shares) < 4 or len(shares) % 2 or not all(-0.01 <= share <= 1.01 for share in shares):
            raise ValueError(f"its numbers {shares} are no box or outline in shares of the sides, 0 to 1")
        points = zip(shares[::2], shares[1::2], strict=True)
        box = _bounding_box([(x * width, y * height) for x, y in points])
        # As NumPy writes it, a whole number may be 1.000000e+00.
        yield str(image), names[f"class {float(kind):g}"], box, False


def _yolo_names(file: Path, position: Position) -> Mapping[int, str]:
    """Class names by number, from classes.txt, obj.names or data.yaml, beside the file or above it."""
    for folder in file.parents[:4]:
        for names_file in (folder / "classes.txt", folder / "obj.names"):
            if names_file.is_file():
                return dict(enumerate(names_file.read_text(encoding="utf-8-sig").split("\n")))
        if (data_file := folder / "data.yaml").is_file():
            position.append(f"its classes in {data_file}")
            names = yaml.safe_load(data_file.read_bytes())["names"]
            return names if isinstance(names, dict) else dict(enumerate(names))
    raise ValueError("there is no classes.txt, obj.names or data.yaml beside it that names its classes")


def _table(file: Path, position: Position) -> Iterator[Entry]:
    """A CSV table: each row is a box or a point, in columns named as in _COLUMNS."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        separator = tables.separator(stream.readline())
        stream.seek(0)
        rows = csv.DictReader(stream, strict=True, delimiter=separator)
        header = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        # Of several names, the first counts.
        columns = {key: header[n] for key, names in _COLUMNS.items() for n in reversed(names) if n in header}
        missing = [key for key in ("image", "name", "x", "y") if key not in columns]
        if missing:
            accepted = "; ".join(" or ".join(_COLUMNS[key]) for key in missing)
            raise ValueError(
                f"its columns are {', '.join(header)}, but it needs also {accepted}; rename them, or take it "
                "out of the folder"
            )

        for row in rows:
            position.append(f"line {rows.line_num}")
            texts = {key: (row[name] or "").strip() for key, name in columns.items()}
            if not any(texts.values()):
                continue
            # Where decimals have commas, columns do not.
            if separator != ",":
                texts |= {key: texts[key].replace(",", ".") for key in texts.keys() - {"image", "name"}}
            x, y = float(texts["x"]), float(texts["y"])
            w = float(texts["x2"]) - x if "x2" in texts else float(texts.get("w", 0))
            h = float(texts["y2"]) - y if "y2" in texts else float(texts.get("h", 0))
            yield texts["image"], texts["name"], [x, y, w, h], False


def _bounding_box(points: Iterable[Any]) -> list[float]:
    """The box round points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _text(element: ET.Element, path: str) -> str:
    """The text of an element below this one; KeyError where it is missing or empty."""
    if text := (element.findtext(path) or "").strip():
        return text
    raise KeyError(path)


def _find_image(file: Path, name: str) -> Path:
    """The image that an annotation is of; ValueError where there is none."""
    if image := _image_beside(file, name.replace("\\", "/")):
        return image
    raise ValueError(f"the image {name} is neither beside it nor in a folder fields, images or JPEGImages")


def _image_beside(file: Path, name: str) -> Path | None:
    """The image `name`, with or without its suffix, beside `file` or in a folder of images."""
    folder, parent = file.parent, file.parent.parent
    folders = [folder, folder / "fields", folder / "images", parent / "images", parent, parent / "JPEGImages"]
    # Of labels/train/a.txt, and of annotations/instances_train.json: images/train.
    folders += [parent.parent / "images" / folder.name, parent / "images" / file.stem.rpartition("_")[2]]
    # macOS stores accents decomposed, other systems as they were typed.
    spellings = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    names = [name for spelling in spellings for name in (spelling, Path(spelling).name)]
    suffixes = ("", *_IMAGE_SUFFIXES, *map(str.upper, _IMAGE_SUFFIXES))
    for folder, name, suffix in itertools.product(folders, names, suffixes):
        image = Path(os.path.normpath(folder / f"{name}{suffix}"))
        if image.suffix.lower() in _IMAGE_SUFFIXES and image.is_file():
            return image
    return None


def images_below(folder: Path) -> set[Path]:
    """All images below a folder, by their suffixes; none if it is a file."""
    images = {path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES}
    return {path for path in images if not files.is_litter(path.relative_to(folder).as_posix())}
