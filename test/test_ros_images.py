"""Pictures from messages: every encoding, any padding and byte order, malformed data.

The expected arrays come from loops over pixels that read the bytes by the definition of the encoding. Not tested: what
a Bayer pattern interpolates between its samples; only that all libraries agree and that flat colour comes out right.
Compressed transports are tested in test_ros_compressed.py.
"""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmcl_core.errors import InputError
from mmcl_ros import images
from mmcl_ros.images import CHROMA, DEPTH_ENCODINGS, RGB_ENCODINGS, PackedImage, decode_depth, decode_rgb

WIDTH, HEIGHT = 6, 4


def message(encoding, values, padding=0, big=False):
    """An Image message holding ``values`` [H, W(, C)] with ``padding`` junk bytes after each row."""
    values = np.asarray(values)
    rows = values.astype(values.dtype.newbyteorder(">" if big else "<"))
    rows = [row.tobytes() + b"\xa5" * padding for row in rows]
    return SimpleNamespace(
        encoding=encoding,
        height=values.shape[0],
        width=values.shape[1],
        step=len(rows[0]),
        is_bigendian=int(big),
        data=b"".join(rows),
    )


def random_values(encoding, table, seed=0):
    kind, channels = table[encoding]
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    if kind == "f4":
        return rng.uniform(0.2, 5, shape).astype(np.float32)
    return rng.integers(0, 256 ** int(kind[1]), shape).astype(kind)


def byte(value, kind):
    return int(value) if kind == "u1" else int(int(value) * 255 / 65535 + 0.5)


def yuv_to_rgb(y, u, v):
    c, d, e = 1.164 * max(y - 16, 0), u - 128, v - 128  # luma below 16 is footroom
    return [c + 1.596 * e, c - 0.391 * d - 0.813 * e, c + 2.018 * d]


def slow_rgb(encoding, values):
    """The picture by loops; Bayer encodings excepted."""
    kind, _ = RGB_ENCODINGS[encoding]
    out = np.zeros((HEIGHT, WIDTH, 3))
    for r in range(HEIGHT):
        for c in range(WIDTH):
            pixel = values[r, c]
            if encoding in ("mono8", "mono16", "8UC1"):
                out[r, c] = [byte(pixel, kind)] * 3
            elif encoding.startswith(("rgb",)):
                out[r, c] = [byte(p, kind) for p in pixel[:3]]
            elif encoding.startswith(("bgr", "8UC3", "8UC4", "16UC3", "16UC4")):
                out[r, c] = [byte(p, kind) for p in pixel[2::-1]]
            else:
                even = c - c % 2
                luma = 1 if encoding in ("yuv422", "uyvy") else 0
                u, v = int(values[r, even, 1 - luma]), int(values[r, even + 1, 1 - luma])
                out[r, c] = np.clip(yuv_to_rgb(int(pixel[luma]), u, v), 0, 255)
    return out


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", [name for name in RGB_ENCODINGS if "bayer" not in name and name not in CHROMA])
def test_colour_equals_the_definition(encoding, padding, big):
    values = random_values(encoding, RGB_ENCODINGS)
    got = decode_rgb(message(encoding, values, padding, big))
    assert got.shape == (HEIGHT, WIDTH, 3)
    assert got.dtype == np.uint8
    tolerance = 2 if encoding in ("yuv422", "yuv422_yuy2", "uyvy", "yuyv") else 0
    np.testing.assert_allclose(got.astype(float), slow_rgb(encoding, values), atol=tolerance)


@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16", "16UC3", "16UC4", "mono16"])
def test_sixteen_bits_are_scaled_over_their_whole_range(encoding):
    _, channels = RGB_ENCODINGS[encoding]
    values = np.repeat(np.uint16([[0, 128, 129, 257, 65535 - 129, 65535 - 128, 65535]])[..., None], channels, axis=2)
    got = decode_rgb(message(encoding, values if channels > 1 else values[..., 0]))
    assert got[0, :, 0].tolist() == got[0, :, 2].tolist() == [0, 0, 1, 1, 254, 255, 255]


@pytest.mark.parametrize("encoding", [name for name in RGB_ENCODINGS if "bayer" in name])
def test_bayer_of_a_flat_colour(encoding):
    colour = {"r": 200, "g": 90, "b": 30}
    pattern = encoding[6:10]
    scale = 257 if encoding.endswith("16") else 1
    values = np.array([[colour[pattern[2 * (r % 2) + c % 2]] * scale for c in range(8)] for r in range(6)])
    got = decode_rgb(message(encoding, values.astype(RGB_ENCODINGS[encoding][0]), 3))
    np.testing.assert_array_equal(got[2:-2, 2:-2], np.broadcast_to([200, 90, 30], (2, 4, 3)))


@pytest.mark.parametrize("encoding", [name for name in RGB_ENCODINGS if "bayer" in name])
def test_a_compressed_mosaic_is_the_colour_that_the_raw_one_is(encoding):
    colour = {"r": 200, "g": 90, "b": 30}
    pattern = encoding[6:10]
    scale = 257 if encoding.endswith("16") else 1
    values = np.array([[colour[pattern[2 * (r % 2) + c % 2]] * scale for c in range(8)] for r in range(6)])
    values = values.astype(RGB_ENCODINGS[encoding][0])
    png = cv2.imencode(".png", values)[1].tobytes()
    got = decode_rgb(SimpleNamespace(format=f"{encoding}; png compressed ", data=png))
    np.testing.assert_array_equal(got, decode_rgb(message(encoding, values)))
    halves = np.repeat(np.uint8([[40, 200]]), 16, axis=0).repeat(16, axis=1)
    jpeg = cv2.imencode(".jpg", halves)[1].tobytes()
    grey = decode_rgb(SimpleNamespace(format=f"{encoding}; jpeg compressed mono8", data=jpeg))
    np.testing.assert_allclose(grey.astype(int), np.stack([halves] * 3, -1), atol=4)
    picture = np.full((16, 16, 3), (30, 90, 200), np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    for words in ("", " bgr8"):  # what has three channels is no mosaic, whatever is said of it
        got = decode_rgb(SimpleNamespace(format=f"{encoding}; jpeg compressed{words}", data=jpeg))
        np.testing.assert_allclose(got.astype(int), picture[..., ::-1], atol=4)


def two_planes(encoding, padding=0, seed=0):
    """A message of random luma and chroma, with padding after each row of luma, and the picture by loops."""
    side = 1 if encoding == "nv24" else 2
    rng = np.random.default_rng(seed)
    luma = rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    chroma = rng.integers(0, 256, (HEIGHT // side, WIDTH // side, 2)).astype(np.uint8)
    junk = b"\xa5" * padding
    data = b"".join(row.tobytes() + junk for row in luma)
    data += b"".join(row.tobytes() + junk * (2 // side) for row in chroma)
    wanted = np.zeros((HEIGHT, WIDTH, 3))
    for r in range(HEIGHT):
        for c in range(WIDTH):
            u, v = (int(value) for value in chroma[r // side, c // side][:: -1 if encoding == "nv21" else 1])
            wanted[r, c] = np.clip(yuv_to_rgb(int(luma[r, c]), u, v), 0, 255)
    step = WIDTH + padding
    made = SimpleNamespace(encoding=encoding, height=HEIGHT, width=WIDTH, step=step, is_bigendian=0, data=data)
    return made, wanted


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", list(CHROMA))
def test_a_picture_of_two_planes_equals_the_definition(encoding, padding):
    made, wanted = two_planes(encoding, padding)
    got = decode_rgb(made)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got.astype(float), wanted, atol=2)
    last = (2 if encoding == "nv24" else 1) * padding  # the last row may lack its padding
    short = SimpleNamespace(**{**vars(made), "data": made.data[: len(made.data) - last]})
    np.testing.assert_array_equal(decode_rgb(short), got)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 5}, "2 x 2 pixels, but the picture is 5 x 4"),
        ({"height": 3}, "2 x 2 pixels, but the picture is 6 x 3"),
        ({"step": 5}, "step is 5 bytes"),
        ({"data": bytes(23)}, "truncated: 23 bytes"),
        ({"data": bytes(24)}, "24 bytes of data, but the two planes of 6 x 4 pixels of nv12 with step 6 take 36"),
        ({"data": bytes(35)}, "take 36"),
        ({"data": bytes(48)}, "48 bytes of data"),
        ({"height": 2**31}, "truncated"),
    ],
)
def test_malformed_planes_are_named(change, says):
    made, _ = two_planes("nv12")
    with pytest.raises(InputError, match=says):
        decode_rgb(SimpleNamespace(**{**vars(made), **change}))


def backends():
    found = {"opencv": images._opencv}
    for name, build in (("cv_bridge", images._cv_bridge), ("rosbags-image", images._rosbags_image)):
        try:
            found[name] = build()
        except Exception:
            continue
    return found


# The cv_bridge of ROS 1, which Debian has, raises; that of ROS 2 does not.
UNKNOWN_TO_OLD_CV_BRIDGE = ("yuv422_yuy2",)


def test_all_conversion_libraries_give_equal_arrays():
    found = backends()
    if len(found) == 1:
        pytest.skip("neither cv_bridge nor rosbags-image is installed")
    rng = np.random.default_rng(1)
    apart = (*images.SYNONYMS, *CHROMA)
    eight_bit = [name for name, (kind, _) in RGB_ENCODINGS.items() if kind == "u1" and name not in apart]
    for encoding in eight_bit:
        if encoding == "rgb8":
            continue
        size = WIDTH * RGB_ENCODINGS[encoding][1]
        data = rng.integers(0, 256, HEIGHT * size).astype(np.uint8)
        packed = PackedImage(encoding, HEIGHT, WIDTH, size, 0, data.data)
        reference = images._opencv(packed)
        for name, convert in found.items():
            if name == "cv_bridge" and encoding in UNKNOWN_TO_OLD_CV_BRIDGE:
                try:
                    convert(packed)
                except Exception:
                    continue
            np.testing.assert_array_equal(convert(packed), reference, err_msg=f"{name} {encoding}")


def test_a_conversion_library_that_gives_wrong_colours_is_passed_over(monkeypatch):
    images.rgb_backend.cache_clear()
    monkeypatch.setattr(images, "_cv_bridge", lambda: lambda image: np.zeros((1, 2, 3), np.uint8))
    monkeypatch.setattr(images, "_rosbags_image", lambda: (_ for _ in ()).throw(ImportError("not here")))
    assert images.rgb_backend()[0] == "opencv"
    monkeypatch.undo()
    images.rgb_backend.cache_clear()


def test_an_encoding_that_the_library_does_not_know_is_converted_all_the_same(monkeypatch):
    def refuse(image):
        raise RuntimeError("Unrecognized image encoding")

    values = random_values("yuv422_yuy2", RGB_ENCODINGS)
    expected = decode_rgb(message("yuv422_yuy2", values))
    monkeypatch.setattr(images, "rgb_backend", lambda: ("cv_bridge", refuse))
    np.testing.assert_array_equal(decode_rgb(message("yuv422_yuy2", values)), expected)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", list(DEPTH_ENCODINGS))
def test_depth_keeps_its_unit(encoding, padding, big):
    values = random_values(encoding, DEPTH_ENCODINGS)
    got = decode_depth(message(encoding, values, padding, big))
    assert got.dtype == values.dtype
    np.testing.assert_array_equal(got, values)


def test_metric_depth_without_a_reading_is_zero():
    values = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0, 2.5]], np.float32)
    np.testing.assert_array_equal(decode_depth(message("32FC1", values)), [[0, 0, 0, 0, 0, 2.5]])


def test_last_row_may_lack_its_padding():
    whole = message("rgb8", random_values("rgb8", RGB_ENCODINGS), padding=7)
    short = SimpleNamespace(**{**vars(whole), "data": whole.data[:-7]})
    np.testing.assert_array_equal(decode_rgb(short), decode_rgb(whole))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": "rgb9"}, r"'rgb9'.*rgb8, bgr8"),
        ({"encoding": ""}, "''.*supported"),
        ({"data": b"123"}, "truncated: 3 bytes"),
        ({"step": 5}, "step is 5 bytes"),
        ({"height": 0}, "6 x 0"),
        ({"width": 2**31}, "step is"),
        ({"height": 2**31}, "truncated"),
        ({"encoding": "bgr16"}, "step is"),
        ({"encoding": "bayer_rggb8", "height": 1}, "at least 2 x 2 pixels, not 6 x 1"),
        ({"encoding": "bayer_rggb16", "width": 1}, "at least 2 x 2 pixels, not 1 x 4"),
    ],
)
def test_malformed_colour_is_named(change, says):
    good = message("rgb8", random_values("rgb8", RGB_ENCODINGS))
    with pytest.raises(InputError, match=says):
        decode_rgb(SimpleNamespace(**{**vars(good), **change}))


def test_colour_on_the_depth_topic_is_refused():
    with pytest.raises(InputError, match=r"'rgb8' is not known for depth; supported are 16UC1, mono16, 32FC1"):
        decode_depth(message("rgb8", random_values("rgb8", RGB_ENCODINGS)))


def test_odd_width_of_a_subsampled_picture_is_refused():
    with pytest.raises(InputError, match="width is 5"):
        decode_rgb(message("yuv422", np.zeros((4, 5, 2), np.uint8)))
