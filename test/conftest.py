"""What all tests share."""

from __future__ import annotations

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
