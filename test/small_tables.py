"""A table of two rows that is trained in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import yaml

from mmcl_core.config import to_dict

TABLE = """
title: Tiny
base: base.yaml
sets: {tiny: SET}
settings: {train.target: "{modality}"}
columns: {rgb: {title: RGB}, depth: {}}
rows:
  - {name: ce, settings: {method: supervised, train.modalities: ["{modality}"]}, cells: {rgb: 92.5, depth: [79.2, 0.5]}}
  - {name: multi, title: Multi, cells: {rgb: 94.4, depth: 86.1}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("sweep") / "set")


@pytest.fixture
def write(tmp_path, data):
    """Write a table file and its base; ``SET`` stands for the set."""

    def write(text=TABLE, name="table.yaml", *overrides):
        config = tiny.settings(Path(), "data.val_fraction=0", "train.epochs=1", "train.threads=0", *overrides)
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(to_dict(config)))
        path = tmp_path / name
        path.write_text(text.replace("SET", str(data)))
        return path

    return write
