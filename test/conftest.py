"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data(*parts: str) -> Path:
    """A file of the sample data; the calling test is skipped, with the reason, where it is absent."""
    root = Path(os.environ.get("MMCL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"sample data not found: {path} (set MMCL_SHARED_DATA to the folder that holds it)")
    return path
