"""The recogniser: its answers against the network's own, and a clear error for everything that is no crop."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SIDE, SIZE, make_crops, save_model

from mmcl_core import metrics
from mmcl_core.crops import resized
from mmcl_core.errors import CheckpointError, ConfigError, InputError, UntrainedModalityError
from mmcl_core.recognizer import _TORCH, UNKNOWN, Recognizer


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = save_model(folder / "weights.safetensors", temperature={"rgb": 2.0, "depth": 0.5, "rgbd": 0.7})
    return model, Recognizer.load(folder, device="cpu")


def test_answers_are_those_of_the_network(loaded):
    model, recognizer = loaded
    rgb, depth = make_crops([(SIDE, SIDE)] * 3)
    inner = slice(2, 2 + SIZE)
    for name, arrays, temperature in (("rgb", rgb, 2.0), ("depth", depth, 0.5)):
        picture = torch.from_numpy(np.stack(arrays).astype(np.float32)[:, inner, inner])
        picture = picture.permute(0, 3, 1, 2) if name == "rgb" else picture[:, None]
        with torch.no_grad():
            logits, embedding = model(picture, name)
        answer = recognizer.recognize(**{name: arrays}, top_k=2)
        np.testing.assert_allclose(answer.probabilities, (logits / temperature).softmax(1), atol=1e-5)
        np.testing.assert_allclose(answer.embeddings, embedding / embedding.norm(dim=1, keepdim=True), atol=1e-5)
        best = logits.argsort(dim=1, descending=True)[:, :2]
        assert answer.top_labels == [[recognizer.classes[n] for n in row] for row in best]
        assert answer.labels == [names[0] for names in answer.top_labels]
        np.testing.assert_allclose(answer.scores, answer.probabilities.max(axis=1))
        np.testing.assert_allclose(answer.top_scores[:, 1], np.sort(answer.probabilities)[:, -2])
        assert answer.modality == [name] * 3
        assert answer.rejected == [""] * 3
        assert answer.probabilities.dtype == answer.embeddings.dtype == answer.scores.dtype == np.float32
    assert (recognizer.classes, recognizer.modalities) == (("mug", "ball", "pen"), ("rgb", "depth"))
    assert recognizer.model_id.startswith("0123456789ab-")
    assert len(answer) == 3
    assert len({*map(tuple, answer.probabilities.tolist())}) == 3


def test_a_batch_of_any_sizes_is_the_single_answers(loaded):
    _, recognizer = loaded
    rgb, depth = make_crops([(20, 20), (64, 48), (3, 200), (150, 150), (1, 1)])
    cameras = [None, (50, 50, 20, 30), (0, 0, 0, 0), (90, 90, 75, 75), None]
    together = recognizer.recognize(rgb, depth, cameras)
    in_parts = Recognizer(recognizer._backend, max_batch=2).recognize(rgb, depth, cameras)
    for n in range(5):
        alone = recognizer.recognize(rgb[n : n + 1], depth[n : n + 1], cameras[n : n + 1])
        for many in (together, in_parts):
            np.testing.assert_allclose(many.probabilities[n], alone.probabilities[0], atol=1e-5)
            np.testing.assert_allclose(many.embeddings[n], alone.embeddings[0], atol=1e-5)
    assert together.modality == ["rgbd"] * 5


def test_crops_are_brought_to_the_side_that_training_saw_first(loaded):
    """The details of a crop of 100 pixels are those of one of the training set's side, which the model tells."""
    _, recognizer = loaded
    assert recognizer.crop_size == SIDE
    rgb, depth = make_crops([(100, 100)] * 2)
    small = [[resized(picture, SIDE) for picture in pictures] for pictures in (rgb, depth)]
    for found, expected in (
        (recognizer.recognize(rgb), recognizer.recognize(small[0])),
        (recognizer.recognize(depth=depth), recognizer.recognize(depth=small[1])),
    ):
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"depth_encoding": "normals", "metric_size": True}])
def test_a_mirrored_look_is_the_mean_of_both_pictures(tmp_path, settings):
    save_model(tmp_path / "weights.safetensors", temperature={"rgb": 2.0, "depth": 0.5}, **settings)
    once, twice = (Recognizer.load(tmp_path, device="cpu", mirror=mirror) for mirror in (False, True))
    rgb, depth = make_crops([(SIDE, SIDE)] * 3)
    cameras = np.array([(60, 61, 14, 20), (0, 0, 0, 0), (50, 50, 30, 3)], np.float32)
    turned = cameras.copy()
    turned[[0, 2], 2] = SIDE - 1 - cameras[[0, 2], 2]
    for kind, pictures in (("rgb", rgb), ("depth", depth)):
        plain = once.recognize(**{kind: pictures}, camera=cameras)
        other = once.recognize(**{kind: [picture[:, ::-1] for picture in pictures]}, camera=turned)
        answer = twice.recognize(**{kind: pictures}, camera=cameras)
        assert np.abs(plain.probabilities - other.probabilities).max() > 1e-3
        mean = np.sqrt(plain.probabilities * other.probabilities)
        np.testing.assert_allclose(answer.probabilities, mean / mean.sum(1, keepdims=True), atol=1e-5)
        both = plain.embeddings + other.embeddings
        np.testing.assert_allclose(answer.embeddings, both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)


def test_depth_whose_readings_are_all_cut_away_is_not_used(loaded):
    """The network looks at the middle of a crop; readings around it are none."""
    _, recognizer = loaded
    rgb, depth = make_crops([(40, 40)])
    depth[0][2:-2, 2:-2] = 0
    answer = recognizer.recognize(depth=depth)
    assert (answer.modality, answer.rejected, answer.labels) == ([""], ["no_depth"], ["unknown"])
    both = recognizer.recognize(rgb, depth)
    assert both.modality == ["rgb"]
    np.testing.assert_array_equal(both.probabilities, recognizer.recognize(rgb).probabilities)


def test_fusion_and_missing_pictures(loaded):
    _, recognizer = loaded
    rgb, depth = make_crops([(40, 40)] * 5)
    depth[2][:] = 0  # no reading at all
    depth[3][:19], depth[3][21:] = 0, 0  # 5 % left
    answer = recognizer.recognize(
        [rgb[0], None, rgb[2], rgb[3], None], [None, depth[1], depth[2], depth[3], depth[2]], min_depth_valid=0.04
    )
    assert answer.modality == ["rgb", "depth", "rgb", "rgbd", ""]
    np.testing.assert_allclose(answer.depth_valid, [-1, 1, 0, 0.05, 0])
    alone, by_depth = recognizer.recognize(rgb), recognizer.recognize(depth=depth)
    np.testing.assert_allclose(answer.probabilities[0], alone.probabilities[0], atol=1e-5)
    np.testing.assert_allclose(answer.probabilities[1], by_depth.probabilities[1], atol=1e-5)
    fused = metrics.fuse([alone.probabilities[3:4], by_depth.probabilities[3:4]], temperature=0.7)
    np.testing.assert_allclose(answer.probabilities[3], fused[0], atol=1e-5)
    between = alone.embeddings[3] + by_depth.embeddings[3]
    np.testing.assert_allclose(answer.embeddings[3], between / np.linalg.norm(between), atol=1e-5)
    np.testing.assert_allclose(answer.probabilities[4], 1 / 3)
    assert (answer.labels[4], answer.scores[4], answer.rejected[4]) == (UNKNOWN, 0, "no_depth")
    assert not answer.embeddings[4].any()
    stricter = recognizer.recognize(rgb[3:4], depth[3:4], min_depth_valid=0.06)
    assert stricter.modality == ["rgb"]
    depth[3][:20], depth[3][20:] = 0, 900
    for least, modality in ((0.5, "rgbd"), (0.501, "rgb")):  # so many readings are enough
        assert recognizer.recognize(rgb[3:4], depth[3:4], min_depth_valid=least).modality == [modality]
    depth[3][:12], depth[3][12:20] = 0, 900  # 70 %, which float32 rounds down
    assert recognizer.recognize(rgb[3:4], depth[3:4], min_depth_valid=np.float64(0.7)).modality == ["rgbd"]
    nothing = recognizer.recognize([None])
    assert nothing.rejected == ["no_picture"]


def test_low_scores_are_rejected(loaded):
    _, recognizer = loaded
    rgb, _ = make_crops([(40, 40)] * 6)
    free = recognizer.recognize(rgb)
    limit = float(np.median(free.scores))
    answer = recognizer.recognize(rgb, min_score=limit)
    assert [label == UNKNOWN for label in answer.labels] == (free.scores < limit).tolist()
    assert answer.rejected == ["low_score" if score < limit else "" for score in free.scores]
    assert answer.top_labels == free.top_labels
    assert 0 < answer.labels.count(UNKNOWN) < 6


def test_metres_and_millimetres_agree(loaded):
    _, recognizer = loaded
    assert recognizer.takes_distances
    _, (millimetres,) = make_crops([(60, 60)])
    millimetres[10:20] = 0
    metres = millimetres.astype(np.float32) / 1000
    metres[10:13], metres[13:15], metres[15:17] = np.nan, np.inf, -1
    expected = recognizer.recognize(depth=[millimetres])
    for array in (metres, metres.astype(np.float64), np.asfortranarray(metres), np.repeat(metres, 2, 1)[:, ::2]):
        answer = recognizer.recognize(depth=[array])
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(answer.depth_valid, 50 / 60)


@pytest.mark.parametrize("far", [70.0, 500.0, 1e10, np.finfo(np.float32).max, np.finfo(np.float64).max])
def test_readings_farther_than_prepared_sets_hold_are_none(loaded, recwarn, far):
    _, recognizer = loaded
    _, (millimetres,) = make_crops([(60, 60)])
    millimetres[20:50, 15:50] = 0
    metres = np.where(millimetres == 0, far, millimetres / 1000)
    expected = recognizer.recognize(depth=[millimetres])
    with np.errstate(over="ignore"):
        arrays = (metres, metres.astype(np.float32))
    for array in arrays:
        answer = recognizer.recognize(depth=[array])
        np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-4)
        assert answer.depth_valid == expected.depth_valid
    assert not recwarn.list


def test_a_crop_with_nothing_but_the_largest_float_sees_nothing(loaded):
    _, recognizer = loaded
    answer = recognizer.recognize(depth=[np.full((20, 20), np.finfo(np.float32).max, np.float32)])
    assert answer.rejected == ["no_depth"]


def test_metric_size_needs_the_camera(tmp_path):
    save_model(tmp_path / "weights.safetensors", depth_encoding="normals", metric_size=True)
    recognizer = Recognizer.load(tmp_path, device="cpu")
    assert recognizer.uses_camera
    _, depth = make_crops([(40, 40)] * 2)
    unknown = recognizer.recognize(depth=depth)
    zeros = recognizer.recognize(depth=depth, camera=np.zeros((2, 4)))
    known = recognizer.recognize(depth=depth, camera=[None, (300, 300, 20, 20)])
    in_parts = Recognizer(recognizer._backend, max_batch=1).recognize(depth=depth, camera=[None, (300, 300, 20, 20)])
    np.testing.assert_allclose(in_parts.probabilities, known.probabilities, atol=1e-5)
    np.testing.assert_array_equal(unknown.probabilities, zeros.probabilities)
    np.testing.assert_allclose(unknown.probabilities[0], known.probabilities[0], atol=1e-5)
    assert np.abs(unknown.probabilities[1] - known.probabilities[1]).max() > 1e-3


def test_stored_depth_pictures(tmp_path):
    save_model(tmp_path / "weights.safetensors", depth_encoding="stored")
    recognizer = Recognizer.load(tmp_path, device="cpu")
    pictures, metric = make_crops([(40, 50)])
    assert recognizer.recognize(depth=pictures).modality == ["depth"]
    assert not recognizer.takes_distances
    with pytest.raises(InputError, match=r"depth\[0\] is uint16 of shape .* and takes no distances"):
        recognizer.recognize(depth=metric)
    with pytest.raises(InputError, match="give a list"):
        recognizer.recognize(depth=pictures[0])


RGB, DEPTH = np.full((8, 8, 3), 9, np.uint8), np.full((8, 8), 900, np.uint16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to recognise"),
        ({"rgb": []}, "empty"),
        ({"rgb": RGB}, r"rgb=\[crop\]"),
        ({"depth": DEPTH}, r"depth=\[crop\]"),
        ({"rgb": [RGB, RGB], "depth": [DEPTH]}, "2 rgb crops, 1 depth crop"),
        ({"rgb": [RGB, RGB / np.float32(255)]}, r"rgb\[1\] is float32.*\* 255"),
        ({"rgb": [RGB.astype(np.int64)]}, "int64"),
        ({"rgb": [RGB[..., 0]]}, "single channel"),
        ({"rgb": [np.zeros((3, 8, 9), np.uint8)]}, "transpose"),
        ({"rgb": [np.zeros((8, 9, 4), np.uint8)]}, r"\[\.\.\., :3\]"),
        ({"rgb": [np.zeros((1, 8, 9, 3), np.uint8)]}, "list of single crops"),
        ({"rgb": [RGB[:0]]}, "empty"),
        ({"rgb": ["crop.png"]}, "str"),
        ({"depth": [DEPTH.astype(np.uint8)]}, "8-bit"),
        ({"depth": [DEPTH.astype(np.int32)]}, "astype"),
        ({"depth": [DEPTH.astype(np.float32)]}, "probably millimetres"),
        ({"depth": [np.where(np.arange(8) < 6, 0, DEPTH).astype(np.float32)]}, "probably millimetres"),
        ({"depth": [DEPTH // 500]}, "metres go in as float32"),
        ({"depth": [DEPTH // 32]}, "its largest reading is 28; metres go in"),
        ({"depth": [DEPTH[..., None]]}, r"crop\[\.\.\., 0\]"),
        ({"depth": [DEPTH[:, :0]]}, "empty"),
        ({"depth": [DEPTH], "camera": [(1, 1, 1, 1), None]}, "2 cameras for 1 crop;"),
        ({"depth": [DEPTH], "camera": (500, 500, 4, 4)}, "4 cameras for 1 crop;"),
        ({"depth": [DEPTH], "camera": 500}, "camera is 500; give a list"),
        ({"depth": [DEPTH], "camera": [(500, 500, 4)]}, r"camera\[0\]"),
        ({"depth": [DEPTH], "camera": [(0, 500, 4, 4)]}, "positive"),
        ({"depth": [DEPTH], "camera": [(500, -500, 4, 4)]}, "positive"),
        ({"depth": [DEPTH], "camera": [(500, 500, np.nan, 4)]}, "finite"),
        ({"depth": [DEPTH], "camera": ["500,500,4,4"]}, r"camera\[0\] is '500,500,4,4'; four"),
        ({"depth": [DEPTH], "camera": [[500, [500], 4, 4]]}, r"camera\[0\]"),
        ({"depth": [DEPTH], "camera": [{"fx": 500}]}, r"camera\[0\]"),
        ({"rgb": "mug.jpg"}, r"rgb is a str; give a list of numpy arrays: rgb=\[crop\]"),
        ({"depth": 5}, r"depth is a int; give a list"),
        ({"rgb": [RGB], "min_score": 80}, r"min_score is 80; a share in \[0, 1\]"),
        ({"depth": [DEPTH], "min_depth_valid": float("nan")}, "min_depth_valid is nan"),
    ],
)
def test_what_is_no_crop_is_refused(loaded, arguments, message):
    with pytest.raises(InputError, match=message):
        loaded[1].recognize(**arguments)


def test_depth_of_another_byte_order_or_behind_a_mask(loaded):
    depth = np.arange(600, 856, dtype=np.uint16).reshape(16, 16)
    holes = depth.copy()
    holes[:4] = 0
    for same, other in (
        (depth, depth.astype(">u2")),
        (depth, (depth / 1000).astype(">f4")),
        (holes, np.ma.masked_array(depth, holes == 0)),
    ):
        expected, found = (loaded[1].recognize(depth=[crop]) for crop in (same, other))
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
        np.testing.assert_array_equal(found.depth_valid, expected.depth_valid)


def test_untrained_modality(tmp_path):
    save_model(tmp_path / "weights.safetensors", trained=("depth",))
    recognizer = Recognizer.load(tmp_path, device="cpu")
    assert recognizer.modalities == ("depth",)
    with pytest.raises(UntrainedModalityError, match="trained for depth, not for rgb"):
        recognizer.recognize(rgb=[RGB])
    save_model(tmp_path / "weights.safetensors", trained=())
    with pytest.raises(UntrainedModalityError, match="not trained to classify"):
        Recognizer.load(tmp_path, device="cpu")


def test_loading_runs_each_sensor_once(tmp_path, monkeypatch):
    save_model(tmp_path / "weights.safetensors")
    seen = []
    monkeypatch.setattr(Recognizer, "_infer", lambda self, kind, images, cameras: seen.append((kind, images.shape)))
    Recognizer.load(tmp_path, device="cpu", warm_up=False)
    assert not seen
    Recognizer.load(tmp_path, device="cpu")
    assert seen == [("rgb", (1, SIZE, SIZE, 3)), ("depth", (1, SIZE, SIZE))]


def test_what_cannot_be_loaded(tmp_path):
    for path in (tmp_path / "none", tmp_path / "none.onnx", tmp_path):
        with pytest.raises(CheckpointError):
            Recognizer.load(path)
    save_model(tmp_path / "weights.safetensors")
    for wrong in (
        {"device": "gpu"},
        {"device": "cuda:99"},
        {"device": "xla"},
        {"device": "hpu"},
        {"precision": "int8"},
        {"backend": "jax"},
    ):
        with pytest.raises(ConfigError, match=r"choose|take"):
            Recognizer.load(tmp_path, **wrong)
    with pytest.raises(CheckpointError, match=r"\.onnx"):
        Recognizer.load(tmp_path, backend="onnx")
    assert Recognizer.load(tmp_path, device="cpu", backend="auto").backend == "torch"


def test_a_path_below_the_home_folder(tmp_path, monkeypatch):
    save_model(tmp_path / "weights.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Recognizer.load("~/weights.safetensors", device="cpu").modalities == ("rgb", "depth")
    with pytest.raises(CheckpointError, match="no model at ~nobody-of-this-name/run"):
        Recognizer.load("~nobody-of-this-name/run")


@pytest.mark.parametrize(("version", "fine"), [("1.13.1+cu117", False), ("2.3.0", False), ("2.11.0a0+git", True)])
def test_a_pytorch_that_is_too_old_is_named(tmp_path, monkeypatch, version, fine):
    save_model(tmp_path / "weights.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    if fine:
        Recognizer.load(tmp_path, device="cpu")
    else:
        with pytest.raises(ConfigError, match=f"PyTorch {re.escape(version)} is too old; 2.4 or newer"):
            Recognizer.load(tmp_path, device="cpu")
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"torch>={".".join(map(str, _TORCH))}"' in project


def test_bf16_is_close(tmp_path, loaded):
    save_model(tmp_path / "weights.safetensors", temperature={"rgb": 2.0, "depth": 0.5, "rgbd": 0.7})
    recognizer = Recognizer.load(tmp_path, device="cpu", precision="bf16", warm_up=False)
    rgb, depth = make_crops([(40, 40)] * 4)
    rough, exact = recognizer.recognize(rgb, depth), loaded[1].recognize(rgb, depth)
    assert rough.probabilities.dtype == np.float32
    np.testing.assert_allclose(rough.probabilities, exact.probabilities, atol=0.05)
    np.testing.assert_allclose(rough.probabilities.sum(axis=1), 1, atol=1e-3)


def test_a_worker_thread_gets_the_same_answers(loaded):
    _, recognizer = loaded
    rgb, depth = make_crops([(40, 40), (80, 30)])
    answers = []
    worker = threading.Thread(target=lambda: answers.extend(recognizer.recognize(rgb, depth) for _ in range(3)))
    worker.start()
    expected = recognizer.recognize(rgb, depth)
    worker.join()
    assert len(answers) == 3
    for answer in answers:
        np.testing.assert_array_equal(answer.probabilities, expected.probabilities)
