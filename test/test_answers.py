"""Which of several cameras answers, which score is low, and in which range depth is changed."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from mmcl_core.methods import METHODS, method_class
from mmcl_core.recognizer import UNKNOWN, Recognizer

SIDE = 32
#: Methods that look at what they classify alone.
ALONE = ("supervised", "amdim")


class Fixed:
    """A back end whose answers depend on the modality alone that it is asked about; crop n gets row n."""

    name, device, precision, model_id = "fixed", "cpu", "float32", "0123456789ab-01234567"

    def __init__(self, answers):
        self.answers = {name: np.asarray(rows, np.float32) for name, rows in answers.items()}
        self.metadata = {
            "classes": list(tiny.CLASSES),
            "input": {"size": SIDE, "depth_encoding": "replicate"},
            "trained_modalities": list(answers),
            "temperature": dict.fromkeys(answers, 1.0),
            "model": {"nrkhs": 4},
        }

    def infer(self, modality, images, cameras):
        return self.answers[modality][: len(images)].copy(), np.full((len(images), 4), 0.5, np.float32)


@pytest.mark.parametrize(
    ("trained", "answering"),
    [
        (("rgb", "rgb_right"), "rgb"),
        (("rgb_right", "rgb"), "rgb"),
        (("rgb_right", "rgb_left", "depth"), "rgb_left"),
        (("depth_far", "rgb_right"), "rgb_right"),
    ],
)
def test_of_several_colour_cameras_the_first_by_name_answers(trained, answering):
    """Whatever the order that the model has them in."""
    answers = {name: [np.roll([0.7, 0.2, 0.1], number)] for number, name in enumerate(trained)}
    recognizer = Recognizer(Fixed(answers))
    found = recognizer.recognize(rgb=[np.zeros((SIDE, SIDE, 3), np.uint8)])
    np.testing.assert_allclose(found.probabilities, answers[answering], rtol=1e-6)
    assert found.modality == ["rgb"]


def test_a_score_of_the_least_that_is_asked_for_is_not_low():
    rows = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.05, 0.05, 0.9], [0.4, 0.35, 0.25]], np.float32)
    recognizer, crops = Recognizer(Fixed({"rgb": rows})), [np.zeros((SIDE, SIDE, 3), np.uint8)] * 4
    free = recognizer.recognize(rgb=crops)
    assert free.labels == ["bar", "disc", "frame", "bar"]
    for row, score in enumerate(free.scores):
        asked = recognizer.recognize(rgb=crops, min_score=float(score))
        assert asked.labels[row] == free.labels[row]
        assert asked.rejected == ["low_score" if other < score else "" for other in free.scores]
        stricter = recognizer.recognize(rgb=crops, min_score=float(np.nextafter(score, np.float32(1))))
        assert (stricter.labels[row], stricter.rejected[row]) == (UNKNOWN, "low_score")


@pytest.mark.parametrize("method", METHODS)
def test_grey_levels_of_depth_are_those_of_the_models_range(method):
    """Inverted within 0.5 to 1.2 m: a reading and what it becomes add up to 1.7 m."""
    words = (
        *("augment.depth_op=Invert", "augment.depth_op_probability=1", "augment.rgb_ops=0", "augment.flip=0"),
        *("augment.scale=[1, 1]", "augment.ratio=[1, 1]", f"method={method}"),
        "train.target=depth" if method in ALONE else "train.target=rgb",
    )
    config = tiny.settings("unused", *words)
    made = method_class(method)(config, tiny.CLASSES, 8, range(8), True)
    depth = torch.randint(500, 1201, (4, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).int()
    depth[:, :4] = 0
    images = {"rgb": torch.zeros(4, SIDE, SIDE, 3, dtype=torch.uint8), "depth": depth}
    looked_at = 0
    for stage in made.stages():
        augmenter = made.augmenter(stage)
        pictures = augmenter(images, torch.zeros(4, 4), augmenter.draw(4, torch.Generator().manual_seed(1)))
        for view, name in made.views(stage).items():
            if name == "depth" and view not in augmenter.plain:
                expected = torch.where(depth > 0, 1700 - depth, 0)[:, None].float()
                torch.testing.assert_close(pictures[view].image, expected, atol=0.01, rtol=0)
                looked_at += 1
    assert looked_at
