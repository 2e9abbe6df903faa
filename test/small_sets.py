"""Small prepared sets and folders of crops for the tests of the data layer, and ``prepare`` run on them."""

import resource
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.prepare import main

CLASSES = ("box", "can", "mug")


def sample(number, size=8, split=None, label=None, modalities=("rgb", "depth")):
    """Content follows from the number alone; every fifth has no depth, every seventh no label."""
    generator = np.random.default_rng(number)
    images = {"rgb": generator.integers(0, 256, (size, size, 3), dtype=np.uint8)}
    if number % 5:
        images["depth"] = generator.integers(0, 65536, (size, size), dtype=np.uint16)
    return Sample(
        images={name: images[name] for name in modalities if name in images},
        label=(-1 if number % 7 == 6 else number % 3) if label is None else label,
        split=split or ("test" if number % 4 == 3 else "train"),
        key=f"{number:05d}",
        group=f"scene{number // 10}",
        source=f"raw/{number}\r.png" if number % 6 == 5 else f'raw/"{number}", original.png',
        camera=(500.0 + number, 501.0, 3.5, 4.25) if number % 2 else None,
    )


def write_set(out, numbers, size=8, **options):
    """Write and open a set of the samples of these numbers."""
    with PreparedWriter(
        out, classes=CLASSES, size=size, modalities=("rgb", "depth"), description={"made_by": "test"}
    ) as writer:
        for number in numbers:
            writer.add(sample(number, size, **options))
    return PreparedSet.open(out)


def write_crop(folder, key, rgb=True, depth=True, mask=False, shape=(20, 20), far=1500):
    """Write the picture files of a crop; returns (rgb in R, G, B; depth) as written."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(sum(map(ord, key)))
    colour = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
    metric = generator.integers(500, far, shape).astype(np.uint16)
    if rgb:
        assert cv2.imwrite(str(folder / f"{key}_rgb.png"), colour[..., ::-1])
    if depth:
        assert cv2.imwrite(str(folder / f"{key}_depth.png"), metric)
    if mask:
        picture = np.zeros(shape, np.uint8)
        picture[: shape[0] // 2] = 255
        assert cv2.imwrite(str(folder / f"{key}_mask.png"), picture)
    return colour, metric


def files(folder):
    """Content of all files of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_crops(root):
    """Two splits, two classes and unlabelled samples; one without depth, one without RGB."""
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        for number in numbers:
            write_crop(root / split / "mug", f"0001_{number:06d}", mask=True)
            write_crop(root / split / "can", f"0002_{number:06d}", mask=True, shape=(20, 31))
    write_crop(root / "train" / "can", "single", depth=False)
    write_crop(root / "test" / "mug", "dark", rgb=False)
    write_crop(root / "train" / "unlabelled", "what_1")
    return root


def words(source, out, *options, name="folder"):
    """The words of a command that prepares crops of 20 x 20 pixels."""
    return [name, "--source", str(source), "--out", str(out), "--workers", "1", "--size", "20", *options]


def run(source, out, *options, name="folder"):
    """Run the command; its status, and the set where there is one."""
    status = main(words(source, out, *options, name=name))
    return status, PreparedSet.open(out) if status == 0 else None


def prepare(command, source, out, *more):
    """Run ``prepare`` with the words of a command, such as ``nyud --size 32``; the set that it makes."""
    assert main([*command.split(), "--source", str(source), "--out", str(out), "--workers", "1", *more]) == 0
    return PreparedSet.open(out)


def failure(capfd, *arguments):
    """The one line on standard error that a refused command ends with."""
    assert main([*arguments, "--workers", "1"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@contextmanager
def full_disk(largest):
    """Files take so many bytes and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def damage(source):
    """Files of four samples of :func:`write_crops` become unusable."""
    mugs = source / "train" / "mug"
    (mugs / "0001_000000_rgb.png").write_bytes(b"")
    cv2.imwrite(str(mugs / "0001_000001_depth.png"), np.zeros((20, 20), np.uint8))
    cut = (mugs / "0001_000002_rgb.png").read_bytes()[:-30]
    (mugs / "0001_000002_rgb.png").write_bytes(cut)
    (mugs / "0001_000002_depth.png").unlink()
    (mugs / "0001_000003_rgb.jpg").write_bytes(cut)
    return source


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "set", range(50))
