"""The crop rule against slow loops, the camera against projected points, depth units, and faults of picture files."""

import zlib
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from mmcl_core import crops as robot_crops
from mmcl_core.data.crops import CropRule, part_inside
from mmcl_core.data.pictures import depth_millimetres, depth_scale, is_metric_png, read_picture, read_rgb
from mmcl_core.errors import ConfigError, DataError


def slow_square(image, box):
    """A rectangle made square by asking for every pixel where it comes from."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0)
    left, top = (side - (x1 - x0)) // 2, (side - (y1 - y0)) // 2
    out = np.empty((side, side, *image.shape[2:]), image.dtype)
    for v in range(side):
        for u in range(side):
            out[v, u] = image[min(max(y0 + v - top, y0), y1 - 1), min(max(x0 + u - left, x0), x1 - 1)]
    return out


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (3, 5, 14, 16), (2, 1, 9, 19), (4, 7, 21, 8)])
def test_a_rectangle_becomes_square_by_its_own_edges(box):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    side = max(box[2] - box[0], box[3] - box[1])
    crop = CropRule(side)({"rgb": picture, "depth": picture[..., 0].astype(np.uint16)}, None, box)
    np.testing.assert_array_equal(crop[0]["rgb"], slow_square(picture, box))
    np.testing.assert_array_equal(crop[0]["depth"], slow_square(picture[..., 0], box))
    assert crop[1] is None


def test_the_rule_is_the_one_the_robot_applies_to_its_crops():
    depth = np.random.default_rng(0).integers(0, 5000, (90, 61)).astype(np.uint16)
    camera, size, side = (70.0, 71.0, 30.0, 44.0), 32, robot_crops.resized_side(32)
    images, ours = CropRule(side)({"depth": depth}, camera)
    theirs, moved = robot_crops.fit(depth.astype(np.float32), size, camera)
    margin = round((side - size) / 2)
    np.testing.assert_array_equal(images["depth"][margin : margin + size, margin : margin + size], theirs)
    np.testing.assert_allclose(np.array(ours) - (0, 0, margin, margin), moved, rtol=1e-6)


def test_a_margin_grows_the_rectangle_up_to_the_border():
    picture = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)
    region = CropRule(20, margin=0.5).region((10, 10, 20, 20), height=40, width=40)
    assert (region.left, region.top, region.side) == (5, 5, 20)
    assert region.inside == (5, 5, 25, 25)
    region = CropRule(20, margin=0.5).region((0, 10, 10, 20), height=40, width=40)  # cut at the left border: 15 x 20
    assert region.inside == (0, 5, 15, 25)
    crop = CropRule(20).cut(picture, region)
    np.testing.assert_array_equal(crop[:, :2], np.repeat(picture[5:25, :1], 2, 1))


def test_context_fills_the_square_with_the_picture():
    picture = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40)
    rule = CropRule(12, context=True)
    images, _ = rule({"depth": picture}, None, (20, 10, 24, 22))
    np.testing.assert_array_equal(images["depth"], picture[10:22, 16:28])
    images, _ = rule({"depth": picture}, None, (0, 10, 4, 22))  # reaches 4 pixels over the left border
    np.testing.assert_array_equal(images["depth"][:, 4:], picture[10:22, :8])
    assert not images["depth"][:, :4].any(), "no reading where nothing is seen"
    colour = np.stack([picture] * 3, -1).astype(np.uint8)
    images, _ = rule({"rgb": colour}, None, (0, 10, 4, 22))
    np.testing.assert_array_equal(images["rgb"][:, :4], np.repeat(colour[10:22, :1], 4, 1))


@pytest.mark.parametrize(
    "box", [(-8, 3, 12, 23), (30, 20, 45, 36), (5, 5, 25, 17), (5, 5, 26, 17), (4, 5, 26, 17), (3.4, 2.2, 16.6, 25.3)]
)
def test_boxes_are_cut_as_the_node_cuts_them(box):
    detections = pytest.importorskip("mmcl_ros.detections")
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (30, 40, 3), np.uint8)
    window = robot_crops.square_around(detections.clip(detections.Box("", *box), 40, 30), 1.2)
    rule = CropRule(window[2] - window[0], margin=0.1, context=True)
    for name, picture in (("rgb", colour), ("depth", rng.integers(400, 900, (30, 40)).astype(np.uint16))):
        images, _ = rule({name: picture}, None, part_inside(box, height=30, width=40))
        np.testing.assert_array_equal(images[name], detections.cut(picture, window))


@pytest.mark.parametrize("box", [(1, 2, 4, 5), (1, 2, 5, 4), (0, 0, 3, 8)])
def test_a_window_moves_with_its_box_pixel_by_pixel(box):
    first = robot_crops.square_around(box, 1.2)
    for step in range(5):
        moved = robot_crops.square_around(tuple(edge + step for edge in box), 1.2)
        assert moved == tuple(edge + step for edge in first)


def test_a_window_has_a_pixel_at_least():
    assert robot_crops.square_around((3, 4, 5, 5), 0.1) == (4, 4, 5, 5)


def test_small_and_outside_rectangles_are_no_crops():
    rule = CropRule(16, min_side=10)
    assert rule.region((0, 0, 9, 9), height=40, width=40) is None
    assert rule.region((0, 0, 10, 3), height=40, width=40) is not None
    assert rule.region((50, 50, 70, 70), height=40, width=40) is None
    assert rule.region((5, 5, 5, 30), height=40, width=40) is None


@pytest.mark.parametrize("size", [16, 50, 128])
@pytest.mark.parametrize("box", [None, (3, 2, 33, 12), (8, 4, 20, 29)])
def test_a_point_seen_by_the_camera_stays_on_its_pixel(size, box):
    rule = CropRule(size, margin=0.1, context=box == (8, 4, 20, 29))
    camera = (52.0, 55.0, 19.0, 14.5)
    region = rule.region(box, height=30, width=40)
    fx, fy, cx, cy = rule.move(camera, region)
    point = np.array([0.12, -0.07, 0.9])
    u, v = camera[0] * point[0] / point[2] + camera[2], camera[1] * point[1] / point[2] + camera[3]
    # The share of the square left of the point is the same before and after; a pixel's left edge lies at -0.5.
    across = (u + 0.5 - region.left) / region.side
    down = (v + 0.5 - region.top) / region.side
    assert fx * point[0] / point[2] + cx + 0.5 == pytest.approx(across * size)
    assert fy * point[1] / point[2] + cy + 0.5 == pytest.approx(down * size)


def test_depth_is_never_mixed():
    depth = np.where(np.random.default_rng(1).random((37, 37)) < 0.3, 0, 1000).astype(np.uint16)
    depth[:, 20:] *= 4
    for size in (16, 64):
        assert set(np.unique(CropRule(size)({"depth": depth})[0]["depth"])) == {0, 1000, 4000}


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("mm", 1), ("0.1mm", 0.1), ("cm", 10), ("m", 1000), ("m/5000", 0.2), (".25 mm", 0.25), ("m/1e3", 0)],
)
def test_depth_units(unit, scale):
    if scale:
        assert depth_scale(unit) == pytest.approx(scale)
    else:
        with pytest.raises(ConfigError, match="not understood; write mm"):
            depth_scale(unit)


@pytest.mark.parametrize("unit", ["", "inch", "0mm", "m/0", "mm mm", "-1mm"])
def test_wrong_depth_units(unit):
    with pytest.raises(ConfigError, match="not understood"):
        depth_scale(unit)


def test_depth_is_converted_to_millimetres(tmp_path):
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.array([[0, 1, 4, 5, 14, 15, 65535]], np.uint16))
    assert depth_millimetres(path, 1).tolist() == [[0, 1, 4, 5, 14, 15, 65535]]
    assert depth_millimetres(path, 0.1).tolist() == [[0, 0, 0, 1, 1, 2, 6554]]
    assert depth_millimetres(path, 10).tolist() == [[0, 10, 40, 50, 140, 150, 0]]  # too far for the format: no reading


def test_the_end_of_a_jpeg_is_its_own(tmp_path):
    """A phone puts a thumbnail into the file and a film behind it: neither makes a picture whole or broken."""
    colour = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8), (0, 0), 2)
    jpeg, thumbnail = (cv2.imencode(".jpg", picture)[1].tobytes() for picture in (colour, colour[::4, ::4]))
    exif = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    photo = jpeg[:2] + exif + jpeg[2:]
    film = b"\0\0\0\x18ftypmp42" + bytes(10_000)
    path = tmp_path / "photo.jpg"
    for data in (photo, photo + film, photo[:2] + b"\xff" + photo[2:]):  # bytes that fill up may precede a segment
        path.write_bytes(data)
        np.testing.assert_array_equal(read_rgb(path), cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)[..., ::-1])
    for length in (len(photo) - 40, len(exif) + 2, len(exif) - 20, 3):
        path.write_bytes(photo[:length])
        with pytest.raises(DataError, match="is truncated"):
            read_rgb(path)


WAYS = {"baseline": [], "progressive": [2, 1], "restarts": [4, 2], "optimised": [3, 1]}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_with_a_foreign_block_in_the_middle_is_damaged(tmp_path, way):
    """The decoders make up what a JPEG lacks, and say nothing that could be caught."""
    colour = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    jpeg, png = (cv2.imencode(end, colour, flags)[1].tobytes() for end, flags in ((".jpg", WAYS[way]), (".png", [])))
    path = tmp_path / "picture"
    path.write_bytes(jpeg + b"\xff\xd8 and more")
    np.testing.assert_array_equal(read_rgb(path), cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)[..., ::-1])
    block, middle = np.random.default_rng(5).bytes(2000), len(jpeg) // 2
    path.write_bytes(jpeg[:middle] + block + jpeg[middle + 2000 :])
    with pytest.raises(DataError, match=rf"is damaged at byte \d+ of {len(jpeg)}"):
        read_rgb(path)
    path.write_bytes(png[:middle] + block + png[middle + 2000 :])
    with pytest.raises(DataError, match="is not a readable picture"):
        read_rgb(path)


def test_a_picture_that_says_to_be_of_a_billion_pixels_is_named(tmp_path):
    path = tmp_path / "huge.png"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[16:24] = 2 * (60000).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable picture"):
        read_picture(path)


def test_a_picture_that_there_is_no_memory_for_is_not_said_to_be_damaged(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    error = cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 75000000 bytes\n")
    error.err = "Failed to allocate 75000000 bytes"
    monkeypatch.setattr(cv2, "imdecode", Mock(side_effect=error))
    with pytest.raises(DataError, match="takes more memory than there is: Failed to allocate 75000000 bytes"):
        read_picture(path)


def test_faults_of_picture_files_are_told_apart(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    cases = {
        "empty.png": (b"", "is empty"),
        "text.png": (b"this is no picture" * 9, "not a readable picture"),
        "cut.png": (cv2.imencode(".png", colour)[1].tobytes()[:-40], "truncated"),
        "cut.jpg": (cv2.imencode(".jpg", colour)[1].tobytes()[:-40], "truncated"),
        "grey.png": (cv2.imencode(".png", colour[..., 0])[1].tobytes(), "8 bit with 1 channel"),
        "alpha.png": (cv2.imencode(".png", np.dstack([colour, colour[..., :1]]))[1].tobytes(), "without transparency"),
        "deep.png": (cv2.imencode(".png", colour.astype(np.uint16))[1].tobytes(), "16 bit with 3 channel"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_rgb(tmp_path / name)
    with pytest.raises(DataError, match="No such file"):
        read_picture(tmp_path / "absent.png")
    (tmp_path / "good.png").write_bytes(cv2.imencode(".png", colour[..., ::-1])[1].tobytes())
    np.testing.assert_array_equal(read_rgb(tmp_path / "good.png"), colour)
    with pytest.raises(DataError, match=r"8 bit with 3 channel.*16 bit with 1 channel"):
        depth_millimetres(tmp_path / "good.png", 1)
    assert not is_metric_png(tmp_path / "good.png")
    cv2.imwrite(str(tmp_path / "metric.png"), colour[..., 0].astype(np.uint16))
    assert is_metric_png(tmp_path / "metric.png")


@pytest.mark.parametrize("sky", [1000.0, 100.5, 65504.0])
def test_a_thing_before_the_sky_is_in_metres_however_the_sky_is_told(sky):
    crop = np.full((40, 40), sky, np.float32)
    crop[10:30, 17:23] = 4.0
    np.testing.assert_array_equal(robot_crops.check_depth(crop, "depth"), np.where(crop == 4, 4000, 0))
