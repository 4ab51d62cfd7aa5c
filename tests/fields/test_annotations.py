"""Annotations: every format gives the same boxes; errors name the file and the place in it."""

import json
import unicodedata

import pytest
from PIL import ExifTags, Image

from malaria.errors import UserError
from malaria.fields import annotations
from malaria.labels import PARASITIZED, UNINFECTED
from tests.cells.test_images import blank_png

BOX = (10.0, 20.0, 30.0, 40.0)
OWN = [{"image_name": "a.png", "objects": [{"type": "ring", "bbox": dict(zip("xywh", BOX, strict=True))}]}]
COCO = {
    "images": [{"id": 7, "file_name": "a.png"}],
    "categories": [{"id": 1, "name": "ring"}],
    "annotations": [{"image_id": 7, "category_id": 1, "bbox": list(BOX)}],
}
LABELME = {
    "imagePath": "..\\images\\a.png",
    "shapes": [{"label": "ring", "shape_type": "rectangle", "points": [[40, 60], [10, 20]]}],
}
VOC = (
    "<annotation><filename>a.png</filename><object><name>ring</name><bndbox><xmin>10</xmin><ymin>20</ymin>"
    "<xmax>40</xmax><ymax>60</ymax></bndbox></object></annotation>"
)
CVAT = (
    '<annotations><image name="a.png"><box label="ring" xtl="10" ytl="20" xbr="40" ybr="60"/></image>'
    "</annotations>"
)
FORMS = {
    "annotations.json": json.dumps(OWN),
    "coco.json": json.dumps(COCO),
    "a.json": json.dumps(LABELME),
    "a.xml": VOC,
    "cvat.xml": CVAT,
    "a.txt": "0 0.25 0.2 0.3 0.2\n",
    "boxes.csv": "filename,xmin,ymin,xmax,ymax,class\na.png,10,20,40,60,ring\n",
    "sides.csv": "image,label,x,y,w,h\na.png,ring,10,20,30,40\n",
    "german.csv": "image;label;x;y;w;h\na.png;ring;10;20;30;40\n;;;;;\n",
    "excel.csv": "image;label;x;y;w;h;;\na.png;ring;10,0;20,00;30;40,0;;\n",
    "imagej.csv": " ,Image,X,Y,BX,BY,Width,Height,Class\n1,a.png,25,40,10,20,30,40,ring\n",
    "outlines.json": json.dumps(COCO).replace(
        '"bbox": [10.0, 20.0, 30.0, 40.0]', '"segmentation": [[10, 20, 40, 30, 15, 50], [12, 55, 14, 60]]'
    ),
    "mark.json": "\ufeff"
    + json.dumps(COCO).replace('"image_id": 7', '"image_id": "7"').replace("ring", " ring "),
}


def changed(old, new):
    return json.dumps(COCO).replace(old, new)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (100, 200)).save(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("ring\n")
    return tmp_path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_box(folder, name):
    (folder / name).write_text(FORMS[name])
    (field,) = annotations.read(folder)
    (mark,) = field.marks
    assert field.image == folder / "a.png"
    assert mark.label == PARASITIZED
    assert mark.box == pytest.approx(BOX)


@pytest.mark.parametrize(
    ("name", "images", "form"),
    [
        ("labels/train/a.txt", "images/train", "a.txt"),
        ("annotations/instances_default.json", "images/default", "coco.json"),
        ("Annotations/a.xml", "JPEGImages", "a.xml"),
    ],
)
def test_images_are_found_where_tools_put_them(folder, name, images, form):
    for path in (folder / images, (folder / name).parent):
        path.mkdir(parents=True)
    (folder / "a.png").rename(folder / images / "a.png")
    (folder / name).write_text(FORMS[form])
    (field,) = annotations.read(folder)
    assert (field.image, field.marks[0].box) == (folder / images / "a.png", pytest.approx(BOX))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_image_is_found_however_its_accents_are_composed(folder, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (folder / "a.png").rename(folder / unicodedata.normalize(form, "Präparat.png"))
    name = unicodedata.normalize(other, "Präparat.png")
    (folder / "points.csv").write_text(f"image,label,x,y\n{name},ring,5,6\n")
    assert len(annotations.read(folder)[0].marks) == 1


def test_the_class_of_a_yolo_label_may_be_written_as_numpy_does(folder):
    (folder / "a.txt").write_text("0.0e+00 2.5e-01 2.0e-01 3.0e-01 2.0e-01\n")
    assert annotations.read(folder)[0].marks[0].label == PARASITIZED


def test_the_classes_of_yolo_are_found_where_cvat_puts_them(folder):
    (folder / "classes.txt").rename(folder / "obj.names")
    (folder / "a.txt").write_text(FORMS["a.txt"])
    assert annotations.read(folder)[0].marks[0].label == PARASITIZED


def test_shares_are_of_the_sides_of_the_upright_picture(folder):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (200, 100)).save(folder / "a.png", exif=turned)
    (folder / "a.txt").write_text(FORMS["a.txt"])
    assert annotations.read(folder)[0].marks[0].box == pytest.approx(BOX)


def test_a_picture_of_yolo_that_cannot_be_read_is_named(folder):
    (folder / "a.png").write_bytes(blank_png(60_000, 60_000))
    (folder / "a.txt").write_text(FORMS["a.txt"])
    with pytest.raises(UserError, match=r"a\.png: larger than 50,000,000 pixels; export it again"):
        annotations.read(folder)


def test_the_mask_of_a_cell_gives_its_box(folder):
    mask = '<mask label="ring" rle="3, 4" left="10" top="20" width="30" height="40"/>'
    (folder / "cvat.xml").write_text(CVAT.replace(CVAT[CVAT.index("<box") : CVAT.index("</image")], mask))
    assert annotations.read(folder)[0].marks[0].box == BOX


def test_what_file_browsers_editors_and_label_studio_leave_behind_is_no_annotation(folder):
    (folder / "a.xml").write_text(VOC)
    (folder / "._a.xml").write_bytes(b"\0\5\x16\7")
    (folder / "notes.json").write_text('{"categories": [], "info": {"contributor": "Label Studio"}}')
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        (folder / name).mkdir()
        (folder / name / "a.xml").write_text(VOC)
    assert len(annotations.read(folder)[0].marks) == 1


def test_an_image_is_looked_for_once_however_many_marks_it_has(folder, monkeypatch):
    asked = []
    find = annotations._find_image
    monkeypatch.setattr(annotations, "_find_image", lambda file, name: asked.append(name) or find(file, name))
    (folder / "points.csv").write_text("image,label,x,y\n" + "a.png,ring,5,6\n" * 3)
    assert len(annotations.read(folder)[0].marks) == 3
    assert asked == ["a.png"]


@pytest.mark.parametrize("second", ["a.xml", "a.txt", "a-LAPTOP.json"])
def test_a_field_whose_marks_are_in_two_files_is_refused(folder, second):
    (folder / "a.json").write_text(FORMS["a.json"])
    (folder / second).write_text(FORMS.get(second, FORMS["a.json"]))
    with pytest.raises(UserError, match=r"a.*\..* and .*a\..* both mark the same things on .*a\.png"):
        annotations.read(folder)


def test_two_files_may_mark_different_things_on_a_field(folder):
    (folder / "a.json").write_text(FORMS["a.json"])
    (folder / "white.csv").write_text("image,label,x,y\na.png,wbc,80,80\n")
    (field,) = annotations.read(folder)
    assert {mark.label for mark in field.marks} == {PARASITIZED, annotations.OTHER}


def test_points_have_no_size(folder):
    (folder / "points.csv").write_text("image,label,x,y\na.png,healthy,5,6\n")
    assert annotations.read(folder)[0].marks[0].box == (5, 6, 0, 0)


def test_class_names_are_mapped_before_the_known_ones(folder):
    (folder / "boxes.csv").write_text("image,label,x,y\na.png,Ring,5,6\na.png,odd,7,8\n")
    (field,) = annotations.read(folder, {"ring": UNINFECTED, "odd": annotations.OTHER})
    assert [mark.label for mark in field.marks] == [UNINFECTED, annotations.OTHER]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.zip", "", r"a\.zip, its start: it is no \.json, \.xml, \.csv or \.txt file: unpack"),
        ("a.json", '{"shapes": [\n', r"a\.json.*line 2"),
        ("a.json", "[" * 100_000, r"a\.json, its start: it is of no known form"),
        ("coco.json", changed("10.0", "1" * 400), "annotation 1: it is of no known form"),
        (
            "a.xml",
            VOC.replace("<a", '<?xml version="1.0" encoding="odd"?><a', 1),
            "its start: .*encoding: odd",
        ),
        ("cvat.xml", "<annotations><track id='0'/></annotations>", r"cvat\.xml, its start: .* of a video"),
        (
            "coco.json",
            '{"images": []}',
            r"coco\.json, its start: 'categories' is missing; export it again, as COCO, .*, or take it out",
        ),
        ("labels.json", '[{"image": "a.png"}]', "entry 1: 'image_name' is missing; .* or take it"),
        ("b.csv", "slide,date\n", r"b\.csv, its start: its columns are .*; rename them, or take it out"),
        ("b.csv", "image;label;x;y;größe\n".encode("cp1252"), r"it is not UTF-8; save it as such \(in Excel"),
        ("b.csv", "image\tlabel\tx\ty\n".encode("utf-16"), r"its start: it is not UTF-8"),
        ("a.xml", "<annotation>", r"a\.xml.*line 1"),
        ("a.txt", "0 0.5 0.5 0.1 0.1\n0 0.5 x 0.1 0.1\n", r"a\.txt, line 2: .*x"),
        ("b.csv", "image,label,x,y\na.png,ring,1,2\na.png,ring,left,2\n", r"b\.csv, line 3: .*left"),
        ("b.csv", "image,x,y\n", r"b\.csv, its start: .*label"),
        ("b.csv", "image,label,x,y\na.png,alien,1,2\n", r"b\.csv, line 2: the class 'alien'.*data\.classes"),
        ("b.csv", "image,label,x,y\nlost.png,ring,1,2\n", r"b\.csv, line 2: the image lost\.png"),
        ("b.csv", "image,label,x,y,w,h\na.png,ring,1,2,-3,4\n", r"b\.csv, line 2: its box"),
        ("annotations.json", "[3]", r"annotations\.json, entry 1: it is of no known form"),
        ("coco.json", changed("[10.0, 20.0, 30.0, 40.0]", "[]"), r"annotation 1: its box \[\] is no x, y"),
        ("coco.json", changed("[10.0, 20.0, 30.0, 40.0]", "[0.1, 0.2, 0.3, 0.4]"), "annotation 1: its box"),
        ("coco.json", changed('"image_id": 7', '"image_id": 8'), "annotation 1: 'image 8' is missing"),
        ("coco.json", changed('"name": "ring"', '"name": null'), "the class 'None' is unknown"),
        ("coco.json", changed('[{"id": 7', '[{"id": 7, "file_name": "b.png"}, {"id": 7'), "have one id"),
        ("a.txt", "0 10 20 30 40\n", r"a\.txt, line 1: its numbers .* in shares"),
        ("a.txt", "0 0.5 0.5 0.1 0.1 0.9\n", r"a\.txt, line 1: its numbers"),
        ("a.txt", "4 0.5 0.5 0.1 0.1\n", r"a\.txt, line 1: 'class 4' is missing"),
        ("a.txt", "0.5 0.5 0.5 0.1 0.1\n", r"a\.txt, line 1: 'class 0\.5' is missing"),
        (
            "coco.json",
            changed('"bbox": [10.0', '"segmentation": {"counts": "a"}, "box": [1'),
            "'bbox' is missing",
        ),
        ("cvat.xml", CVAT.replace("<box", "<cuboid"), r"cvat\.xml, image a\.png: 'points' is missing"),
    ],
)
def test_a_malformed_file_is_refused_with_its_place(folder, name, text, said):
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=said):
        annotations.read(folder / name)


def test_two_images_that_would_be_one_file_are_refused(folder):
    (folder / "b.csv").write_text("image,label,x,y\np1/a.png,ring,1,2\np2/a.png,ring,1,2\n")
    with pytest.raises(UserError, match=r"b\.csv, line 3: p1/a\.png and p2/a\.png would both be .*a\.png"):
        annotations.read(folder)


def test_yolo_labels_without_an_image_are_refused_and_another_text_is_none(folder):
    (folder / "a.txt").write_text("0 0.25 0.2 0.3 0.2\n")
    (folder / "notes.txt").write_text("2 slides of the 3rd patient\n")
    assert len(annotations.read(folder)) == 1
    (folder / "lost.txt").write_text("0 0.25 0.2 0.3 0.2\n")
    with pytest.raises(UserError, match=r"lost\.txt, its start: the image lost is neither"):
        annotations.read(folder)


def test_a_folder_without_annotations_is_refused(folder):
    with pytest.raises(UserError, match="holds no annotated field"):
        annotations.read(folder)
