"""Pictures from messages: every encoding, any padding and byte order, compressed transports, malformed data.

The expected arrays come from loops over pixels that read the bytes by the definition of the encoding. Not tested: what
a Bayer pattern interpolates between its samples; only that all libraries agree and that flat colour comes out right.
"""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmcl_core.errors import InputError
from mmcl_ros import images
from mmcl_ros.compressed import decode_rvl
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
            elif encoding.startswith(("bgr", "8UC3", "8UC4")):
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
    jpeg = cv2.imencode(".jpg", np.full((6, 8), 90, np.uint8))[1].tobytes()
    grey = decode_rgb(SimpleNamespace(format=f"{encoding}; jpeg compressed mono8", data=jpeg))
    np.testing.assert_array_equal(grey, np.full((6, 8, 3), 90))


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


# compressed


def compressed(text, data):
    return SimpleNamespace(format=text, data=bytes(data))


def encode(kind, picture):
    done, data = cv2.imencode(kind, picture)
    assert done
    return data.tobytes()


def test_png_and_jpeg_colour():
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:] = [250, 10, 60]
    np.testing.assert_array_equal(
        decode_rgb(compressed("rgb8; png compressed bgr8", encode(".png", picture[..., ::-1]))), picture
    )
    jpeg = decode_rgb(compressed("bgr8; jpeg compressed bgr8", encode(".jpg", picture[..., ::-1])))
    assert np.abs(jpeg.astype(int) - picture).max() <= 4
    swapped = decode_rgb(compressed("rgb8; png compressed rgb8", encode(".png", picture)))
    np.testing.assert_array_equal(swapped, picture)


def test_compressed_depth_png():
    depth = np.random.default_rng(0).integers(0, 9000, (10, 12)).astype(np.uint16)
    header = struct.pack("<iff", 0, 0.0, 0.0)
    got = decode_depth(compressed("16UC1; compressedDepth png", header + encode(".png", depth)))
    np.testing.assert_array_equal(got, depth)
    plain = decode_depth(compressed("16UC1; png compressed ", encode(".png", depth)))
    np.testing.assert_array_equal(plain, depth)


def test_compressed_depth_of_metres_is_inverse_depth():
    # The transport's own choice of A and B for a quantisation of 100 and a range of 10 m.
    a = 100.0 * (100.0 + 1)
    b = 1.0 - a / 10.0
    metres = np.array([[0.0, 0.5, 1.0, 2.0, 4.0]])
    stored = np.array([[0 if z == 0 else round(a / z + b) for z in metres[0]]], np.uint16)
    data = struct.pack("<iff", 0, a, b) + encode(".png", stored)
    got = decode_depth(compressed("32FC1; compressedDepth", data))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, metres, rtol=2e-3)


def rvl(depth):
    """Plain-Python encoder, nibble by nibble."""
    nibbles = []

    def put(value):
        while True:
            low, value = value & 7, value >> 3
            nibbles.append(low | (8 if value else 0))
            if not value:
                return

    flat, place, previous = [int(v) for v in depth.reshape(-1)], 0, 0
    while place < len(flat):
        zeros = place
        while zeros < len(flat) and flat[zeros] == 0:
            zeros += 1
        put(zeros - place)
        end = zeros
        while end < len(flat) and flat[end] != 0:
            end += 1
        put(end - zeros)
        for value in flat[zeros:end]:
            delta = value - previous
            put(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = value
        place = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = bytearray()
    for first in range(0, len(nibbles), 8):
        word = 0
        for nibble in nibbles[first : first + 8]:
            word = word << 4 | nibble
        words += struct.pack("<I", word)
    return struct.pack("<II", depth.shape[1], depth.shape[0]) + bytes(words)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_rvl_round_trip(share):
    rng = np.random.default_rng(3)
    depth = rng.integers(1, 65536, (13, 17)).astype(np.uint16)
    depth[rng.random(depth.shape) < share] = 0
    np.testing.assert_array_equal(decode_rvl(rvl(depth)), depth)
    header = struct.pack("<iff", 1, 0.0, 0.0)
    np.testing.assert_array_equal(decode_depth(compressed("16UC1; compressedDepth rvl", header + rvl(depth))), depth)


def test_rvl_of_a_known_stream():
    # 1 zero, 2 values: +5 -> code 10 = nibbles 1010, 0001; -2 -> code 3. Then 0 zeros more, by the size of 3 x 1.
    word = 0x1 << 28 | 0x2 << 24 | 0xA << 20 | 0x1 << 16 | 0x3 << 12
    np.testing.assert_array_equal(decode_rvl(struct.pack("<III", 3, 1, word)), [[0, 5, 3]])


def slow_rvl(data):
    """Decoder that follows the stream number by number; InputError with the words of the fast one."""
    width, height = struct.unpack_from("<II", data)
    words = struct.unpack_from(f"<{(len(data) - 8) // 4}I", data, 8)
    nibbles = [word >> shift & 15 for word in words for shift in range(28, -4, -4)]
    numbers, value, shift = [], 0, 0
    for nibble in nibbles:
        value, shift = value | (nibble & 7) << shift, shift + 3
        if nibble < 8:
            if shift > 30:
                raise InputError("an RVL number of more than 30 bits: corrupt stream")
            numbers.append(value)
            value = shift = 0
    depth, previous, used = [], 0, 0
    while len(depth) < width * height:
        if used + 1 >= len(numbers):
            raise InputError(f"truncated: the RVL stream ends after {len(depth)} of {width * height} pixels")
        zeros, others = numbers[used : used + 2]
        used += 2
        if used + others > len(numbers) or len(depth) + zeros + others > width * height or zeros + others == 0:
            raise InputError(f"the RVL stream does not fit {width} x {height} pixels: corrupt or truncated")
        depth += [0] * zeros
        for code in numbers[used : used + others]:
            previous += code // 2 if code % 2 == 0 else -(code + 1) // 2
            depth.append(previous % 65536)
        used += others
    return np.array(depth, np.uint16).reshape(height, width)


def decoded(decode, data):
    try:
        return decode(data).tolist()
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_rvl_equals_the_definition(share):
    rng = np.random.default_rng(int(100 * share))
    for _ in range(20):
        depth = rng.integers(1, rng.choice([8, 65536]), rng.integers(1, 30, 2)).astype(np.uint16)
        depth[rng.random(depth.shape) < share] = 0
        data = bytearray(rvl(depth))
        assert decoded(decode_rvl, bytes(data)) == decoded(slow_rvl, bytes(data)) == depth.tolist()
        data[8 + int(rng.integers(len(data) - 8))] ^= int(rng.integers(1, 256))
        for damaged in (data, data[: 4 * int(rng.integers(2, len(data) // 4 + 1))]):
            assert decoded(decode_rvl, bytes(damaged)) == decoded(slow_rvl, bytes(damaged))


def test_random_rvl_is_decoded_or_refused_as_the_definition_says():
    rng = np.random.default_rng(6)
    told = set()
    for _ in range(500):
        groups = rng.integers(*rng.choice([[0, 8], [0, 16], [8, 16]]), 64) * (rng.random(64) < rng.random())
        words = sum(groups.reshape(-1, 8)[:, n].astype(np.uint32) << np.uint32(28 - 4 * n) for n in range(8))
        words = words[: rng.integers(1, 9)]
        data = struct.pack("<II", *rng.integers(1, 8, 2)) + words.astype("<u4").tobytes()
        found = decoded(decode_rvl, data)
        assert found == decoded(slow_rvl, data)
        told.add(found.split()[0] if isinstance(found, str) else "decoded")
    assert told == {"decoded", "truncated:", "the", "an"}


def test_truncated_or_random_rvl_is_an_input_error():
    rng = np.random.default_rng(5)
    whole = rvl(rng.integers(1, 9000, (20, 20)).astype(np.uint16))
    for cut in (0, 5, 8, 12, len(whole) // 2):
        with pytest.raises(InputError):
            decode_rvl(whole[:cut])
    for _ in range(200):
        junk = struct.pack("<II", 20, 20) + rng.integers(0, 256, 64).astype(np.uint8).tobytes()
        try:
            assert decode_rvl(junk).shape == (20, 20)
        except InputError:
            continue


@pytest.mark.parametrize(
    ("text", "data", "says"),
    [
        ("jpeg", b"", "corrupt or truncated"),
        ("jpeg", b"no picture", "corrupt or truncated"),
        ("16UC1; compressedDepth png", b"short", "truncated"),
        ("16UC1; compressedDepth png", b"\0" * 40, "corrupt or truncated"),
        ("8UC1; compressedDepth png", b"\0" * 40, "'8UC1'"),
        ("mono16; jpeg compressed", b"\0" * 40, "lossy"),
    ],
)
def test_unusable_compressed_data_is_named(text, data, says):
    decode = decode_rgb if text == "jpeg" else decode_depth
    with pytest.raises(InputError, match=says):
        decode(compressed(text, data))


@pytest.mark.skipif(not hasattr(cv2.utils, "logging"), reason="this OpenCV does not let Python change what it logs")
def test_a_corrupt_picture_writes_nothing_past_the_log(capfd):
    """OpenCV would write a line for every one of them, whatever the node's log is set to."""
    whole = encode(".png", np.random.default_rng(0).integers(0, 60_000, (40, 60)).astype(np.uint16))
    before = cv2.utils.logging.getLogLevel()
    for data in (whole[: len(whole) // 2], whole[:20], whole[:8] + b"x" * 50):
        with pytest.raises(InputError, match="corrupt or truncated"):
            decode_depth(compressed("16UC1; png", data))
    assert capfd.readouterr().err == ""
    assert cv2.utils.logging.getLogLevel() == before


def test_eight_bit_png_is_no_depth():
    with pytest.raises(InputError, match="16 bits"):
        decode_depth(compressed("png", encode(".png", np.zeros((4, 4), np.uint8))))
