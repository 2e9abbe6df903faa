"""``prepare coco`` on exports as CVAT, Label Studio and others make them: where pictures are, and what is a box."""

from __future__ import annotations

import json
import struct
import unicodedata

import cv2
import numpy as np
import pytest
from fake_coco import HEIGHT, WIDTH, change, has, prepare, refused, skipped, source, write_frame, write_json

from mmcl_core.data.coco_annotations import read_annotations

__all__ = ["source"]  # a fixture


def test_pictures_are_found_where_tools_put_them(tmp_path):
    for n, place in enumerate(("images/rgb/1.png", "images/train/rgb/1.png", "train2017/rgb/1.png")):
        source = tmp_path / f"in{n}"
        write_frame(source, place)
        write_json(source / "annotations" / f"instances_train{2017 if n == 2 else ''}.json", ["rgb/1.png"])
        assert prepare(source, tmp_path / f"out{n}").sources[0] == place


def test_accents_of_file_names_may_be_coded_in_two_ways(tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        source = tmp_path / form
        write_frame(source, f"rgb/{unicodedata.normalize(form, 'Küche_1.png')}")
        write_json(source / "annotations.json", [f"rgb/{unicodedata.normalize(other, 'Küche_1.png')}"])
        made = prepare(source, tmp_path / f"out {form}")
        assert (len(made), has(made, "depth").all()) == (2, True)


def test_pictures_found_by_name_are_no_other_entrys(tmp_path, capfd):
    """A picture that is named by its path, or that two entries could mean, is not taken for a missing one."""
    source = tmp_path / "in"
    write_frame(source, "kitchen/0001.png", depth="")
    write_frame(source, "pictures/0002.png", depth="")
    write_frame(source, "pictures/0003.png", depth="")
    write_json(
        source / "a.json", ["kitchen/0001.png", "office/0001.png", "a/0002.png", "b/0002.png", "C:\\c\\0003.png"]
    )
    made = prepare(source, tmp_path / "out", "--depth", "none")
    assert {key.rpartition("/")[0] for key in made.keys} == {"kitchen/0001.png", "pictures/0003.png"}
    assert len(made) == 4
    assert set(skipped(made)) == {"office/0001.png", "a/0002.png", "b/0002.png"}
    assert "1 picture is not where it is said to be" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("file", "place", "name"),
    [
        ("annotations/instances_default.json", "images/default/frame_1.PNG", "frame_1.PNG"),
        ("annotations/instances_a_set.json", "images/a_set/1.png", "1.png"),
        ("job/annotations/instances_default.json", "job/images/default/1.png", "1.png"),
        ("result.json", "images/9a8b7c6d-x1.png", "images\\9a8b7c6d-x1.png"),
        ("result.json", "images/9a8b7c6d-x1.png", "..\\..\\label-studio\\upload\\4\\9a8b7c6d-x1.png"),
        ("a.json", "data/cam/1.png", "/somewhere/else/1.png"),
        ("a.json", "rgb/1.png", "1.png"),
    ],
)
def test_pictures_are_found_as_tools_name_them(tmp_path, monkeypatch, file, place, name):
    """The last one has depth of the same name, which is no colour picture."""
    write_frame(tmp_path, place, depth="depth" if "rgb" in place else "")
    write_json(tmp_path / file, [name])
    monkeypatch.chdir(tmp_path)
    assert prepare(".", tmp_path / "out", "--annotations", file).sources[0] == place


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("rgb/kitchen one.png", "rgb/kitchen%20one.png"),
        ("rgb/k\u00fcche.png", "https://bucket.s3.amazonaws.com/frames/k%C3%BCche.png?X-Amz-Expires=3600&sig=a/b"),
        ("rgb/1a2b3c4d-k\u00fcche.png", "/data/upload/1/1a2b3c4d-k%C3%BCche.png"),
        ("rgb/k\u00fcche.png", "/data/upload/1/1a2b3c4d-k%C3%BCche.png"),
        ("rgb/100%25.png", "rgb/100%25.png"),
    ],
)
def test_pictures_are_found_by_their_addresses(tmp_path, place, name):
    write_frame(tmp_path / "in", place)
    write_json(tmp_path / "in" / "a.json", [name])
    made = prepare(tmp_path / "in", tmp_path / "out")
    assert set(made.sources) == {place}
    assert has(made, "depth").all()


def test_names_of_one_address_in_two_folders_are_told_apart_by_their_paths(tmp_path):
    for place in ("rgb/a b.png", "more/rgb/a b.png"):
        write_frame(tmp_path / "in", place)
    write_json(tmp_path / "in" / "a.json", ["rgb/a%20b.png", "more/rgb/a%20b.png"])
    assert set(prepare(tmp_path / "in", tmp_path / "out").sources) == {"rgb/a b.png", "more/rgb/a b.png"}


def test_numbers_that_are_texts(source, tmp_path):
    """As tools without types write them: ids in one list and not in the other, sizes, boxes and marks of a crowd."""

    def edit(content):
        for entry in (*content["images"], *content["categories"]):
            entry["id"] = str(entry["id"])
        content["images"][0].update(width=f"{WIDTH}.0", height=str(HEIGHT))
        for n, entry in enumerate(content["annotations"]):
            entry.update(bbox=[str(edge) for edge in entry["bbox"]], iscrowd=str(int(n > 5)))

    plain = prepare(source, tmp_path / "plain")
    change(source / "annotations.json", edit)
    made = prepare(source, tmp_path / "out")
    assert list(made.keys) == list(plain.keys[:6])
    assert made.labels.tolist() == plain.labels[:6].tolist()


@pytest.mark.parametrize("size", [(WIDTH, None), (-1, -1), (0, 0)])
def test_sizes_that_are_not_known(source, tmp_path, size):
    stated = {"width": size[0], "height": size[1]}
    change(source / "annotations.json", lambda content: [one.update(stated) for one in content["images"]])
    assert len(prepare(source, tmp_path / "out")) == 8


def test_what_cvat_calls_a_crowd(source, tmp_path, capfd):
    def edit(content):
        for entry in content["annotations"]:
            entry["iscrowd"] = 1

    change(source / "annotations.json", edit)
    assert len(prepare(source, tmp_path / "out")) == 8, "what was painted with a brush is no crowd"
    change(source / "annotations.json", lambda content: content["annotations"][1].update(iscrowd=0))
    capfd.readouterr()
    assert len(prepare(source, tmp_path / "some")) == 1
    assert "7 boxes mark crowds (iscrowd) and are left out" in capfd.readouterr().err
    change(source / "annotations.json", lambda content: [one.update(iscrowd=0) for one in content["annotations"][:-1]])
    prepare(source, tmp_path / "most")
    assert "1 box marks a crowd (iscrowd) and is left out" in capfd.readouterr().err


def test_objects_painted_in_cvat_count_beside_boxes_drawn_there(source, tmp_path):
    def edit(content):
        for n, entry in enumerate(content["annotations"]):
            entry |= {"iscrowd": n % 2, "attributes": {"occluded": False}}
        content["annotations"][1]["attributes"]["is_crowd"] = True

    change(source / "annotations.json", edit)
    assert len(prepare(source, tmp_path / "out")) == 7


@pytest.mark.parametrize(
    ("turn", "box"), [(0, (10, 20, 40, 40)), (90, (15, 15, 35, 45)), (-30, (7.01, 13.84, 42.99, 46.16))]
)
def test_a_rotated_box_becomes_an_upright_one_around_it(source, turn, box):
    """30 x 20 around (25, 30); at 30 degrees 30 cos + 20 sin = 35.98 wide and 30 sin + 20 cos = 32.32 high."""
    entry = {"attributes": {"rotation": turn, "occluded": False}}
    change(source / "annotations.json", lambda content: content["annotations"][0].update(entry))
    read = read_annotations(source / "annotations.json").pictures[0].boxes[0][1]
    np.testing.assert_allclose(read, box, atol=0.01)


@pytest.mark.parametrize("said", ["images/{}", "/data/upload/4/{}", "..\\media\\{}"])
def test_label_studio_names_lead_to_the_pictures_and_depth_from_before_the_upload(said, source, tmp_path):
    with_digits = [f"1a2b3c0{n}-{n:06d}.png" for n in range(4)]
    write_json(source / "annotations.json", [said.format(name) for name in with_digits])
    made = prepare(source, tmp_path / "original")
    assert list(made.keys[::2]) == [f"rgb/{n:06d}.png/000-cup" for n in range(4)]
    assert has(made, "depth").all()
    (source / "rgb").rename(source / "images")
    for n, name in enumerate(with_digits):
        (source / "images" / f"{n:06d}.png").rename(source / "images" / name)
    made = prepare(source, tmp_path / "renamed")
    assert list(made.keys[::2]) == [f"images/{name}/000-cup" for name in with_digits]
    assert list(made.images["depth"][::2, 20, 20]) == [1000, 1001, 1002, 1003]


def test_names_from_before_an_upload_that_two_pictures_had_are_not_guessed_at(tmp_path):
    names = [f"images/1a2b3c0{n}-x.png" for n in range(2)]
    for name in names:
        write_frame(tmp_path, name, depth="")
    write_frame(tmp_path, "rgb/x.png")
    write_json(tmp_path / "annotations.json", names)
    made = prepare(tmp_path, tmp_path / "out")
    assert (made.modalities, len(made)) == (("rgb",), 4)


def test_a_picture_in_the_local_storage_of_label_studio_is_found(source, tmp_path):
    write_json(source / "annotations.json", [f"/data/local-files/?d=kitchen%2Frgb%2F{n:06d}.png" for n in range(4)])
    assert len(prepare(source, tmp_path / "out")) == 8


@pytest.mark.parametrize("name", ["kitchen_rgbd_0", "rgbd_dataset_freiburg1_desk_12", "colour_of_rgb_3"])
def test_depth_that_unpack_bag_wrote_is_found_whatever_the_recording_is_called(tmp_path, name):
    write_frame(tmp_path / "in", f"rgb/{name}.png", depth="")
    write_frame(tmp_path / "depth_of", f"rgb/{name}.png", old="rgb/", depth="depth/")
    (tmp_path / "depth_of/depth").rename(tmp_path / "in/depth")
    write_json(tmp_path / "in/annotations.json", [f"rgb/{name}.png"])
    for more in ((), ("--depth", "rgb=depth")):
        assert has(prepare(tmp_path / "in", tmp_path / f"out{len(more)}", *more), "depth").all()


def test_names_of_roboflow_lead_to_the_pictures_and_depth_from_before_the_upload(tmp_path):
    for number, place in enumerate(("rgb/a.png", "rgb/b.png")):
        write_frame(tmp_path / "in", place, level=1000 + number)
    names = ["a_png.rf.5b9e8050.jpg", "b_png.rf.0c1d2e3f.jpg"]
    write_json(tmp_path / "in/_annotations.coco.json", names)
    assert has(prepare(tmp_path / "in", tmp_path / "beside"), "depth").all()  # the annotations beside the originals
    (tmp_path / "in/images").mkdir()
    for old, new in zip(("a", "b"), names, strict=True):
        cv2.imwrite(str(tmp_path / "in/images" / new), cv2.imread(str(tmp_path / f"in/rgb/{old}.png")))
        (tmp_path / f"in/rgb/{old}.png").unlink()
    made = prepare(tmp_path / "in", tmp_path / "exported")
    assert has(made, "depth").all()  # depth/a.png, for images/a_png.rf.5b9e8050.jpg


@pytest.mark.parametrize(("tool", "taken"), [("Label Studio", True), ("someone", False)])
def test_pictures_that_exif_turns(tmp_path, capfd, tool, taken):
    """Label Studio states the stored size, and boxes of the picture as it shows it."""
    turned = np.full((WIDTH, HEIGHT, 3), 90, np.uint8)  # as it is shown: upright
    stored = cv2.rotate(turned, cv2.ROTATE_90_COUNTERCLOCKWISE)
    done, jpeg = cv2.imencode(".jpg", stored)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    data = jpeg.tobytes()
    assert done
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    content = write_json(tmp_path / "in/annotations.json", ["a.jpg"], boxes=((1, [10, 40, 30, 30]),))
    content["info"] = {"contributor": tool}
    (tmp_path / "in/annotations.json").write_text(json.dumps(content))
    if taken:
        assert len(prepare(tmp_path / "in", tmp_path / "out")) == 1
    else:
        assert "was annotated as 80 x 60: does its EXIF orientation turn it?" in refused(capfd, tmp_path / "in")


def test_the_box_of_a_rotated_mask_is_upright_already(source):
    content = write_json(source / "annotations.json", ["rgb/000000.png"])
    for entry in content["annotations"]:
        entry["attributes"] = {"occluded": False, "rotation": 45.0}
    content["annotations"][0]["segmentation"] = {"counts": [1], "size": [HEIGHT, WIDTH]}
    (source / "annotations.json").write_text(json.dumps(content))
    (picture,) = read_annotations(source / "annotations.json").pictures
    (_, mask), (_, drawn) = picture.boxes
    assert mask == (10, 20, 40, 40)
    assert drawn[2] - drawn[0] == pytest.approx(20 * 2**0.5, abs=0.01)
