"""The figures of an evaluation as the command prints them."""

import pytest

from mmcl_core.engine.results_table import table

NONE_UNKNOWN = {"unknown": 0, "thresholds": [0.0, 0.5], "answered": [1.0, 0.8], "right": [0.7, 0.9]}
SOME_UNKNOWN = {
    **{"unknown": 4, "thresholds": [0.0, 0.45, 0.5, 0.9], "answered": [1.0, 0.9, 0.8, 0.0]},
    **{"right": [0.7, 0.8, 0.9, None], "unknown_answered": [1.0, 0.75, 0.5, 0.25]},
}


def figures(**changed):
    names = ("top1", "group_mean", "macro_f1", "top5", "ece")
    values = {name: {"value": n / 10, "low": n / 10 - 0.05, "high": n / 10 + 0.05} for n, name in enumerate(names, 1)}
    return {**values, "samples": 9, "missing": 0, "without_reading": 0, "min_score": NONE_UNKNOWN, **changed}


def lines(data=(), left_out=(), classes=6, uses_camera=False, **modalities):
    """What is printed of figures of single modalities, line by line."""
    left = {"unlabelled": 0, "unknown_classes": {}, "incomplete_batch": 0, **dict(left_out)}
    report = {
        "data": {"name": "set", "split": "test", "samples": 9, "without_camera": 0, "left_out": left, **dict(data)},
        "model": {"model_id": "m", "uses_camera": uses_camera, "classes": ["thing"] * classes},
        "settings": {"legacy": False, "mirror": False},
        "modalities": modalities or {"rgb": figures()},
    }
    return table(report).splitlines()


@pytest.mark.parametrize("classes", [5, 6])
def test_figures_have_their_intervals_where_resampling_gives_one(classes):
    head, titles, row = lines(classes=classes)
    assert head == "set, split test: 9 samples, model m"
    assert titles.split() == ["samples", "top-1", "group", "mean", "macro-F1", *["top-5"] * (classes > 5), "ECE"]
    own = ["0.100", "[0.050,", "0.150]", "0.200", "[0.150,", "0.250]", "0.300", "[0.250,", "0.350]"]
    assert row.split() == ["rgb", "9", *own, *["0.400", "[0.350,", "0.450]"] * (classes > 5), "0.500"]


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ({}, []),
        ({"unlabelled": 2}, ["left out: 2 unlabelled, 0 of things that the model has no name for"]),
        (
            {"unknown_classes": {"kite": 3, "unknown": 1}},
            ["left out: 0 unlabelled, 4 of things that the model has no name for"],
        ),
        ({"incomplete_batch": 5}, ["left out: 5 of the last, incomplete batch"]),
    ],
)
def test_samples_that_are_left_out_are_told(left_out, told):
    assert [line for line in lines(left_out=left_out) if "left out" in line] == told


@pytest.mark.parametrize(("uses_camera", "without"), [(True, 4), (True, 0), (False, 4)])
def test_missing_cameras_are_told_of_a_model_that_goes_by_them(uses_camera, without):
    said = lines(data={"without_camera": without}, uses_camera=uses_camera)
    assert any("without a camera: 4 samples" in line for line in said) == (uses_camera and without > 0)


def test_what_became_of_depth_without_a_reading_is_told():
    said = lines(rgb=figures(missing=2), depth=figures(without_reading=3), rgbd=figures(without_reading=1))
    assert said[-3:] == [
        "rgb: missing in 2 samples",
        "depth: the depth of 3 samples has no reading; counted as a guess",
        "rgbd: the depth of 1 sample has no reading; answered by colour",
    ]


def test_a_single_sample_or_class_is_named_in_the_singular():
    said = lines(
        data={"samples": 1, "without_camera": 1}, uses_camera=True, rgb=figures(missing=1),
        depth=figures(restricted={"classes": 1, "top1": 0.5}),
    )  # fmt: skip
    assert said[:2] == [
        "set, split test: 1 sample, model m",
        "without a camera: 1 sample; depth is worth less to this model without",
    ]
    assert said[-2:] == ["rgb: missing in 1 sample", "depth: top-1 among the 1 class of the split alone: 0.500"]


def test_accuracy_among_the_classes_of_the_split_is_told_where_they_are_fewer():
    said = lines(rgb=figures(restricted={"classes": 2, "top1": 0.75}), depth=figures())
    assert said[-1] == "rgb: top-1 among the 2 classes of the split alone: 0.750"


def test_scores_that_keep_unknown_objects_out_are_shown_where_there_are_any():
    said = lines(rgb=figures(min_score=SOME_UNKNOWN), depth=figures())
    assert [line.split() for line in said[-3:]] == [
        ["rgb", "0.00", "1.000", "0.700", "1.000", "of", "4"],
        ["rgb", "0.50", "0.800", "0.900", "0.500", "of", "4"],
        ["rgb", "0.90", "0.000", "-", "0.250", "of", "4"],
    ]
    assert not any("min_score" in line for line in lines())
