"""What all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Messages of Humble always check what is put into their fields; newer ones where this is set when they are imported.
os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")


def shared_data(*parts: str) -> Path:
    """A file of the sample data; the calling test is skipped, with the reason, where it is absent."""
    root = Path(os.environ.get("MMCL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"sample data not found: {path} (set MMCL_SHARED_DATA to the folder that holds it)")
    return path


@pytest.fixture
def bench() -> Iterator[Any]:
    """Another party on the ROS graph, in a domain of its own."""
    from ros_bench import Bench

    made = Bench()
    yield made
    made.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recorded bag and the table of its true boxes."""
    from ros_bags import make_recording

    return make_recording(tmp_path_factory.mktemp("mcap"))


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder of crops as ``prepare folder`` reads them."""
    from small_sets import write_crops

    return write_crops(tmp_path / "crops")


@pytest.fixture
def damaged_crops(crops: Path) -> Path:
    """The same, of which some files are no pictures."""
    from small_sets import damage

    return damage(crops)


@pytest.fixture
def usual_log() -> Iterator[None]:
    """Commands set logging up for a whole process; tests share one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
