"""Sets of which many samples lack a modality: what can be learnt from them is, the rest is refused before any work."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.trainer import train
from mmcl_core.errors import ConfigError, DataError, TrainingError
from mmcl_core.weights import load_weights

SHORT = ("train.epochs=1", "train.head_epochs=1", "train.batch=4", "train.log_every=1")


def make_set(root, has, splits=("train",) * 40 + ("test",) * 12):
    """A set of which sample n has the modality m where ``has(n, m)``."""
    rng = np.random.default_rng(0)
    with PreparedWriter(
        root, classes=tiny.CLASSES, size=tiny.SIDE, modalities=("rgb", "depth"), description={}
    ) as writer:
        for number, split in enumerate(splits):
            pictures = zip(("rgb", "depth"), tiny.picture(number % 3, rng), strict=True)
            images = {name: image for name, image in pictures if has(number, name)}
            writer.add(Sample(images, number % 3, split, f"s{number:03d}"))
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Of 40 training samples 4 have depth: most batches of 4 have one or none."""
    return make_set(tmp_path_factory.mktemp("few") / "set", lambda n, name: name == "rgb" or n % 10 == 0)


def test_batches_without_anything_to_contrast_are_passed_over(few, tmp_path):
    words = ("method=two_step", "train.modalities=depth", "loss.level_pairs=[5-5]", "optim.clip_grad=1")
    with pytest.raises(TrainingError, match="no batch of 4 had enough samples to learn depth from"):  # the classifier
        train(tiny.settings(few, *SHORT, *words), tmp_path / "run")
    rows = [row for row in read_rows(tmp_path / "run", "train") if row["stage"] == "contrast"]
    assert len(rows) == 8
    assert sum(row["grad_norm"] == 0 for row in rows) > 4


@pytest.mark.parametrize("method", ["mmcl", "supervised", "cmc"])
def test_what_no_batch_taught_is_neither_validated_nor_answered_for(tmp_path, method, caplog):
    data = make_set(tmp_path / "set", lambda n, name: name == "rgb" or n in (3, 23, 41, 44))
    words = (f"method={method}", "data.val_fraction=0", "data.val_split=test", "cmc.probe_epochs=1")
    config = tiny.settings(data, *SHORT, *words, "train.probe=1")
    result = train(config, tmp_path / "run")
    assert set(result.scores) == {"accuracy", "accuracy/rgb", "loss/rgb"}
    _, metadata = load_weights(tmp_path / "run")
    assert metadata["trained_modalities"] == ["rgb"]
    assert metadata["temperature"]["depth"] == metadata["temperature"]["rgbd"] == 1
    assert "2 of 40 training samples have depth, on average 0.2 of the 4" in caplog.text
    assert "depth is not validated: no batch" in caplog.text


@pytest.mark.parametrize("method", ["mmcl", "two_step", "cmc", "pix2pix", "hallucination", "admd"])
def test_methods_that_need_pairs_refuse_a_set_without(tmp_path, method):
    data = make_set(tmp_path / "set", lambda n, name: (n % 2 == 0) == (name == "rgb"))
    words = (f"method={method}", "train.target=rgb")
    with pytest.raises(DataError, match=r"0 of 32 training samples in .* have two of rgb, depth, and method"):
        train(tiny.settings(data, *SHORT, *words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "told"), [("hallucination", True), ("mmcl", True), ("supervised", False)])
def test_few_pairs_are_told_where_a_method_learns_from_them(tmp_path, method, told, caplog):
    """Most samples have each sensor, and three have both: of a batch none or one."""
    data = make_set(tmp_path / "set", lambda n, name: n in (5, 21, 33) or (n % 2 == 0) == (name == "rgb"))
    words = (f"method={method}", "train.target=rgb", "data.val_fraction=0", "data.val_split=")
    words += tuple(f"hallucination.{name}_epochs=1" for name in ("alone", "together", "finetune"))
    train(tiny.settings(data, *SHORT, *words), tmp_path / "run")
    sentence = "3 of 40 training samples have two of rgb, depth, on average 0.3 of the 4 that are worked off together"
    assert (sentence in caplog.text) == told


def test_methods_that_need_no_pairs_take_such_a_set(tmp_path, caplog):
    data = make_set(tmp_path / "set", lambda n, name: (n % 2 == 0) == (name == "rgb"))
    assert "accuracy/depth" in train(tiny.settings(data, *SHORT, "method=supervised"), tmp_path / "a").scores
    words = ("method=two_step", "train.modalities=depth")
    assert "take up places" not in caplog.text
    assert "accuracy/depth" in train(tiny.settings(data, *SHORT, *words), tmp_path / "b").scores
    assert "17 of 32 training samples have no depth: they take up places in the batches" in caplog.text


def test_the_best_cannot_be_chosen_by_what_validation_lacks(tmp_path):
    splits = ("train",) * 12 + ("val",) * 6
    data = make_set(tmp_path / "set", lambda n, name: name == "rgb" or n < 12, splits)
    words = (*SHORT, "method=supervised", "train.keep=best", "data.val_fraction=0")
    with pytest.raises(ConfigError, match="no validation sample with a label has the modality that is classified"):
        train(tiny.settings(data, *words, "train.target=depth"), tmp_path / "run")
    assert train(tiny.settings(data, *words), tmp_path / "run").selection.startswith("best")


def test_weights_that_answer_for_one_sensor_are_not_better_than_weights_for_both(few, tmp_path, monkeypatch):
    one = {"accuracy": 0.9, "accuracy/rgb": 0.9}
    found = iter([one, {"accuracy": 0.7, "accuracy/rgb": 0.8, "accuracy/depth": 0.6}, one, one])
    monkeypatch.setattr("mmcl_core.engine.trainer.scores", lambda outputs, targets: next(found))
    config = tiny.settings(few, *SHORT, "method=supervised", "train.keep=best", "train.epochs=3")
    assert train(config, tmp_path / "run").selection == "best validation accuracy, epoch 2 of 3"


@pytest.mark.parametrize("method", ["mmcl", "cmc", "moddrop", "pix2pix", "supervised"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("thermal", r"train.modalities is \['thermal'\], but .*set has rgb, depth$"),
        ("rgb depth", r"is \['rgb depth'\], but .*; several are given as 'train.modalities=\[rgb,depth\]'$"),
        ("rgb,depth", r"is \['rgb,depth'\], but .*; several are given as 'train.modalities=\[rgb,depth\]'$"),
    ],
)
def test_unknown_modalities_are_told_before_the_method_asks_for_more(few, tmp_path, method, given, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny.settings(few, f"method={method}", f"train.modalities={given}"), tmp_path / "run")
