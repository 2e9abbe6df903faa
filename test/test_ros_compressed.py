"""Compressed pictures from messages: PNG, JPEG and RVL, against the definition, and data that is none."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmcl_core.errors import InputError
from mmcl_ros.compressed import decode_rvl
from mmcl_ros.images import decode_depth, decode_rgb


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


def test_a_picture_is_as_the_camera_took_it_whatever_its_exif_says():
    """Boxes, depth and camera info are of the pixels that were sent; a viewer would turn them."""
    data = encode(".jpg", np.zeros((16, 24, 3), np.uint8))
    turned = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(turned) + 2) + turned + data[2:]
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (24, 16, 3)
    assert decode_rgb(compressed("rgb8; jpeg compressed bgr8", data)).shape == (16, 24, 3)


def test_compressed_depth_png():
    depth = np.random.default_rng(0).integers(0, 9000, (10, 12)).astype(np.uint16)
    header = struct.pack("<iff", 0, 0.0, 0.0)
    for encoding in ("16UC1", "mono16"):
        got = decode_depth(compressed(f"{encoding}; compressedDepth png", header + encode(".png", depth)))
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
    usual, before = cv2.utils.logging.getLogLevel(), cv2.utils.logging.LOG_LEVEL_WARNING
    cv2.utils.logging.setLogLevel(before)
    for data in (whole[: len(whole) // 2], whole[:20], whole[:8] + b"x" * 50):
        with pytest.raises(InputError, match="corrupt or truncated"):
            decode_depth(compressed("16UC1; png", data))
    assert capfd.readouterr().err == ""
    assert cv2.utils.logging.setLogLevel(usual) == before


@pytest.mark.parametrize(
    ("text", "picture"),
    [
        ("16UC1; png compressed ", np.full((4, 4), 900, np.uint16)),
        ("16UC1; tiff compressed ", np.full((4, 4), 900, np.uint16)),
        ("32FC1; tiff compressed ", np.full((4, 4), 0.9, np.float32)),
    ],
)
def test_depth_on_the_topic_of_colour_is_refused_and_on_its_own_taken(text, picture):
    """As a picture of colour it would be a dark grey one, answered without a word. TIFF holds metres as well."""
    data = encode(f".{text.split()[1]}", picture)
    with pytest.raises(InputError, match="is depth; it cannot serve as colour"):
        decode_rgb(compressed(text, data))
    np.testing.assert_array_equal(decode_depth(compressed(text, data)), picture)


def test_metres_in_a_tiff_without_a_reading_are_zero():
    data = encode(".tiff", np.array([[np.nan, np.inf, -1, 0, 1.5]], np.float32))
    assert decode_depth(compressed("32FC1; tiff compressed ", data)).tolist() == [[0, 0, 0, 0, 1.5]]


def test_eight_bit_png_is_no_depth():
    with pytest.raises(InputError, match="16 bits"):
        decode_depth(compressed("png", encode(".png", np.zeros((4, 4), np.uint8))))


def test_a_stated_size_beyond_all_pictures_costs_no_memory():
    """A run of 2 ** 27 zeros takes 11 groups of 4 bits."""
    words = struct.pack("<II", 0x88888888, 0x81000000)
    with pytest.raises(InputError, match="8192 x 16384"):
        decode_rvl(struct.pack("<II", 8192, 16384) + words)


NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)


def overwritten(data, place, octets):
    return data[:place] + octets + data[place + len(octets) :]


def tables_first(data):
    """A JPEG file whose tables of Huffman codes come before the start of its frame."""
    frame, table = data.index(b"\xff\xc0"), data.index(b"\xff\xc4")
    end = table + 2 + int.from_bytes(data[table + 2 : table + 4], "big")
    return data[:frame] + data[table:end] + data[frame:table] + data[end:]


@pytest.mark.parametrize(
    "data",
    [
        overwritten(encode(".png", NOISE), 16, b"\x00\x00\xff\xff\x00\x00\x3f\xff"),
        overwritten(encode(".png", NOISE), encode(".png", NOISE).index(b"IDAT") - 4, b"\xde\x00\x00\x50"),
        overwritten(encode(".jpg", NOISE), encode(".jpg", NOISE).index(b"\xff\xc0") + 5, b"\x7f\xff\x7f\xff"),
        overwritten(
            encode(".jpg", NOISE).replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1),
            encode(".jpg", NOISE).index(b"\xff\xc0") + 7,
            b"\x7f\xff\x7f\xff",
        ),
        tables_first(overwritten(encode(".jpg", NOISE), encode(".jpg", NOISE).index(b"\xff\xc0") + 5, b"\x7f\xff" * 2)),
    ],
    ids=["size of a PNG", "length of a part", "size of a JPEG", "size of a padded JPEG", "size behind the tables"],
)
def test_a_flipped_bit_costs_no_gigabytes(data, monkeypatch):
    """OpenCV asks for the memory first and finds the damage then: on a small computer the node would be killed."""
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(InputError, match="corrupt or truncated"):
        decode_rgb(compressed("jpeg", data))


@pytest.mark.parametrize("kind", [".png", ".jpg", ".tiff"])
def test_what_follows_a_picture_is_passed_over(kind):
    data = encode(kind, NOISE)
    np.testing.assert_array_equal(decode_rgb(compressed("x", data + b"\x00" * 9)), decode_rgb(compressed("x", data)))


def test_a_jpeg_may_have_its_tables_first():
    data = encode(".jpg", NOISE)
    np.testing.assert_array_equal(decode_rgb(compressed("x", tables_first(data))), decode_rgb(compressed("x", data)))


@pytest.mark.parametrize("share", [0.9, 0.6])
@pytest.mark.parametrize("kind", ["baseline", "progressive", "tables first"])
def test_a_jpeg_that_was_cut_off_is_refused_whatever_opencv_makes_of_it(share, kind, monkeypatch):
    """OpenCV before 4.11 makes a picture of it, with its lower part smeared."""
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(kind == "progressive")]
    data = cv2.imencode(".jpg", NOISE, progressive)[1].tobytes()
    data = tables_first(data) if kind == "tables first" else data
    thumbnail = b"Exif\0\0" + encode(".jpg", NOISE[:8, :8])  # has an end of its own
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    monkeypatch.setattr(cv2, "imdecode", lambda octets, flags: NOISE)
    assert decode_rgb(compressed("jpeg", data)).shape == NOISE.shape
    with pytest.raises(InputError, match="corrupt or truncated"):
        decode_rgb(compressed("jpeg", data[: int(len(data) * share)]))
