"""Networks of several streams in the node: each answers from the one sensor it needs, as without ROS.

What such networks learn is not tested here (test_methods.py), nor what their streams see (test_streams.py).
"""

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")
pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

import small_streams
from mmcl_ros.msg import RecognizerStatus
from ros_bags import column, make_recording
from ros_fakes import CLASSES
from ros_replays import answers, replay

from mmcl_core.nn.streams import Look
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import save_weights
from mmcl_ros.bagfile import Bag
from mmcl_ros.evaluate_bag import evaluate
from mmcl_ros.frames import FrameSettings
from mmcl_ros.truth import read_truth

pytestmark = pytest.mark.ros

# What pix2pix, ADMD and modality hallucination leave behind, and the mirror image of the last.
RULES = {
    "depth made of colour": (
        {"rgb": "rgb", "depth": "depth"},
        {"rgb": [Look("rgb"), Look("depth", "made")]},
        {"made": {"kind": "unet", "settings": {"size": 32, "source": "rgb", "width": 4}}},
    ),
    "imagined from colour": small_streams.RULES["hallucination"],
    "imagined from depth": (
        {"depth": "depth", "other": "depth"},
        {"depth": [Look("depth"), Look("other")]},
        {},
    ),
}


@pytest.fixture
def model(request, tmp_path, monkeypatch):
    monkeypatch.setattr(small_streams, "RULES", RULES)
    folder = tmp_path / "run"
    folder.mkdir()
    network = small_streams.make(request.param).train()
    for generator in network.generators.values():
        for seed in range(3):  # its running statistics
            generator(small_streams.pictures("rgb", seed=seed) / 127.5 - 1)
    save_weights(folder / "weights.safetensors", network, {"classes": list(CLASSES)})
    return Recognizer.load(str(folder), "cpu")


@pytest.mark.parametrize("model", RULES, indirect=True)
def test_the_node_answers_from_the_one_sensor_that_is_needed(bench, model, tmp_path):
    (needed,) = model.modalities
    path, table = make_recording(tmp_path)
    truths = read_truth(table)
    with Bag(path) as bag:
        offline = evaluate(bag, truths, model, [needed], FrameSettings())[needed]
    listener, _ = replay(bench, model, path, truths, "auto")
    found = answers(listener, truths)
    assert [(one.label, one.modality) for one in found] == [(label, needed) for label in column(offline, "label")]
    scores = [float(score) for score in column(offline, "score")]
    assert [one.score for one in found] == pytest.approx(scores, abs=2e-6)
    assert len(set(scores)) > 1, "answers depend on the pictures"


@pytest.mark.parametrize("model", ["imagined from colour"], indirect=True)
def test_the_sensor_it_was_trained_with_but_cannot_answer_from_is_refused(bench, model):
    bench.recognizer(model, modality="depth")
    found = bench.collect(RecognizerStatus, "/recognizer/status", latched=True)
    bench.wait(lambda: found, "the status")
    assert "modality is depth" in found[-1].cause
    assert "answers from rgb" in found[-1].cause
