"""JSON of Falling Things as its exporter writes it, with words for numbers: fake and genuine files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import shared_data
from fake_falling_things import MUG

from mmcl_core.data.fat_annotations import read_cameras, read_class_numbers, read_json, read_objects
from mmcl_core.errors import DataError


def test_json_with_words_for_numbers(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"name": "-nan \\" nan inf", "v": [-nan, nan, -nan(ind), inf, -1.5e3, NaN], "nano": null}')
    content = read_json(path)
    assert content["name"] == '-nan " nan inf'
    assert content["nano"] is None
    assert content["v"][4] == -1500
    assert not np.isfinite(content["v"][:4] + content["v"][5:]).any()
    path.write_text('{"v": [1, nanny]}')
    with pytest.raises(DataError, match="no JSON"):
        read_json(path)


@pytest.mark.parametrize("read", [read_class_numbers, read_cameras])
def test_settings_that_are_missing_or_no_json_are_called_so(tmp_path, read):
    with pytest.raises(DataError, match=r"^cannot be read: No such file"):
        read(tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text('{"exported_objects": [')
    with pytest.raises(DataError, match=r"^is no JSON"):
        read(tmp_path / "settings.json")


@pytest.mark.data
def test_genuine_json_of_the_exporter(tmp_path):
    folder = shared_data("fat_json")
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads((folder / "frame_data.json").read_text())
    content = read_json(folder / "frame_data.json")
    assert [one["class"] for one in content["objects"][:2]] == ["coffee table", "couch"]
    assert math.isnan(content["objects"][0]["bounding_box"]["top_left"][0])
    assert content["camera_data"]["location_worldframe"][0] == pytest.approx(-397.505, abs=1e-3)
    objects, faults = read_objects(folder / "frame_data.json")
    assert objects == []
    assert len(faults) == len(content["objects"])
    cameras = read_cameras(folder / "_camera_settings.json")
    assert cameras["viewpoint"] == pytest.approx((517.3, 516.5, 318.1, 254.8), abs=1e-3)
    numbers = read_class_numbers(folder / "_object_settings.json")
    assert (len(numbers), numbers["coffee table"], numbers["vase"]) == (18, 70, 252)
    # The same file with the names of our objects: all of them lie behind the camera.
    text = (folder / "frame_data.json").read_text().replace('"couch"', f'"{MUG}"').replace('"coffee table"', f'"{MUG}"')
    (tmp_path / "frame.json").write_text(text)
    objects, faults = read_objects(tmp_path / "frame.json")
    assert objects == []
    assert len(faults) == len(content["objects"]) - text.count(MUG)
