"""The protocols of the paper as settings in config/: they load, and run end to end on tiny sets with other classes."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import fake_falling_things
import fake_ycb_video
import numpy as np
import pytest
import tiny
import yaml

from mmcl_core import evaluate, prepare, train
from mmcl_core.config import load
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine.checks import check_settings
from mmcl_core.engine.runfolder import read_config
from mmcl_core.errors import ConfigError
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import load_weights

CONFIG = Path(__file__).parents[1] / "config"
PROTOCOLS = sorted((CONFIG / "protocols").glob("*.yaml"))
SMALL = ("input_size=32", "ndf=8", "nrkhs=16", "depth=1", "head_hidden=8")
TINY = [
    *(f"model.{text}" for text in SMALL), "train.batch=8", "train.epochs=1", "train.device=cpu", "train.threads=1",
    "optim.warmup_steps=1", "train.precision=float32",
]  # fmt: skip


@pytest.mark.parametrize("path", [*PROTOCOLS, *CONFIG.glob("paper_*.yaml")], ids=lambda path: path.stem)
def test_settings_load_and_make_sense(path):
    check_settings(load(path), 1)


#: Mean and standard deviation of RGB, and of 8-bit depth, as the authors' program has them.
FALLING_THINGS = ((88.104, 77.883, 61.347), (45.810, 42.981, 39.688), (91.094,), (61.873,))
NYUD = ((96.937, 77.621, 73.840), (68.860, 67.502, 70.053), (149.204, 67.204, 110.043), (57.511, 37.118, 49.424))


@pytest.mark.parametrize(
    ("name", "statistics"), [("falling_things", FALLING_THINGS), ("nyud", NYUD), ("scenenet", NYUD)]
)
def test_the_papers_presets_hold_the_papers_numbers(name, statistics):
    made = load(CONFIG / f"paper_{name}.yaml")
    model, loss, augment, optim, run = made.model, made.loss, made.augment, made.optim, made.train
    assert (model.input_size, model.ndf, model.nrkhs, model.depth, model.unit_norm) == (128, 128, 1024, 8, False)
    assert (model.head_hidden, model.dropout, model.predict_with) == (1024, 0.2, "mlp")
    grey = name == "falling_things"
    assert (model.depth_encoding, model.depth_range_m) == ("replicate" if grey else "stored", (0, 2.55))
    assert (model.rgb_mean, model.rgb_std, model.depth_mean, model.depth_std) == statistics
    assert (loss.level_pairs, loss.clip, loss.regulariser) == (("1-5", "1-7", "5-7"), 20, 0.05)
    assert (loss.direction_weight, loss.contrastive_weight, loss.classification_weight) == (1, 1, 1)
    assert (loss.logit_clip, loss.logit_regulariser, loss.label_smoothing) == (10, 1e-3, 0)
    assert (augment.policy, augment.flip, augment.scale, augment.ratio) == ("paper", 0.5, (0.3, 1), (0.7, 1.4))
    assert (augment.rgb_ops, augment.rgb_magnitude, augment.depth_set) == (3, 4, 2)
    assert (augment.depth_ops, augment.depth_magnitude, augment.depth_op) == (3, 4, "")
    assert (optim.name, optim.lr, optim.betas, optim.eps, optim.weight_decay) == (
        "adam",
        2e-4,
        (0.8, 0.999),
        1e-8,
        1e-5,
    )
    assert (optim.warmup_steps, optim.schedule, optim.milestones, optim.gamma) == (500, "multistep", (31, 46), 0.2)
    assert (run.epochs, run.batch, run.keep) == (130, 40 if name == "nyud" else 140, "last")


def test_a_protocol_says_only_what_differs_from_its_preset():
    for path in PROTOCOLS:
        own = yaml.safe_load(path.read_text())
        base = load(path.parent / own["base"])
        made = load(path)
        if path.name == "few_crops.yaml":  # it begins elsewhere, and so otherwise
            assert (made.model.init_from, made.optim.name) == ("ycb21", "adamw")
            made = dataclasses.replace(made, model=dataclasses.replace(made.model, init_from=""), optim=base.optim)
        assert made.model == base.model
        assert made.optim == base.optim, "a protocol has the schedule of its preset, from the start"
    few = load(CONFIG / "protocols/semi_supervised.yaml")
    table = yaml.safe_load((CONFIG / "tables/figure3.yaml").read_text())
    assert (few.data.label_share, few.augment.policy) == (0.1, table["settings"]["augment.policy"])
    assert load(CONFIG / "protocols/unsupervised_pretraining.yaml").data.label_share == 0


def test_base_is_laid_under_and_never_goes_round(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.yaml").write_text("train: {batch: 12, epochs: 3}\nmethod: amdim\n")
    (tmp_path / "in" / "b.yaml").write_text("base: ../a.yaml\ntrain: {epochs: 5}\n")
    (tmp_path / "c.yaml").write_text("base: in/b.yaml\nseed: 4\n")
    made = load(tmp_path / "c.yaml", ["seed=5"])
    assert (made.train.batch, made.train.epochs, made.method, made.seed) == (12, 5, "amdim", 5)
    (tmp_path / "a.yaml").write_text("base: c.yaml\n")
    with pytest.raises(ConfigError, match="is its own base"):
        load(tmp_path / "c.yaml")
    (tmp_path / "a.yaml").write_text("base: [1]\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: base is \[1\]"):
        load(tmp_path / "c.yaml")
    (tmp_path / "a.yaml").write_text("base: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"gone\.yaml: No such file"):
        load(tmp_path / "c.yaml")


def crops(root, classes, *, stored, enlarged=1):
    """A set as ``prepare`` makes it: metric depth, or 8-bit depth pictures; crops of 32 pixels times ``enlarged``."""
    rng = np.random.default_rng(1)
    with PreparedWriter(
        root, classes=classes, size=32 * enlarged, modalities=("rgb", "depth"), stored=("depth",) if stored else ()
    ) as writer:
        for number in range(24):
            rgb, depth = tiny.picture(number % 3, rng)
            rgb, depth = (image.repeat(enlarged, axis=0).repeat(enlarged, axis=1) for image in (rgb, depth))
            if stored:
                depth = np.repeat((depth // 5).astype(np.uint8)[..., None], 3, axis=2)
            split = "train" if number < 16 else "test"
            writer.add(Sample({"rgb": rgb, "depth": depth}, number % len(classes), split, f"s{number:02d}"))
    return root


def run(protocol, data, out, *overrides):
    config = str(CONFIG / "protocols" / f"{protocol}.yaml")
    assert train.main(["--config", config, "--data", str(data), "--out", str(out), *TINY, *overrides]) == 0
    return out


def test_unlabelled_pretraining_then_transfer_to_other_classes(tmp_path, capsys):
    source = crops(tmp_path / "fat", ("can", "mug", "drill"), stored=False)
    target = crops(tmp_path / "nyud", ("bed", "sofa"), stored=True)
    before = run("unsupervised_pretraining", source, tmp_path / "before")
    assert "model.init_from=" in capsys.readouterr().out
    assert (before / "labelled.txt").read_text().split() == []
    assert load_weights(before)[1]["trained_modalities"] == []
    after = run(
        "transfer", target, tmp_path / "after", f"model.init_from={before}", "optim.lr=0", "optim.weight_decay=0"
    )
    old, new = load_weights(before)[0], load_weights(after)[0]
    kept = [name for name in new if name.startswith("encoder.") and name.endswith("weight") and ".heads." not in name]
    assert len(kept) > 5
    assert all((old[name] == new[name]).all() for name in kept), "a rate of 0 leaves what was taken over"
    assert load_weights(after)[1]["classes"] == ["bed", "sofa"]
    assert read_config(after).optim.warmup_steps == 1
    assert evaluate.main([str(after), "--data", str(target), "--resamples", "100"]) == 0
    figures = json.loads((after / "evaluation/nyud-test/metrics.json").read_text())
    assert figures["modalities"]["rgb"]["samples"] == 8


@pytest.mark.parametrize("stored", [False, True])
def test_crops_of_twice_the_side_of_the_network(tmp_path, stored):
    """As the paper's sets of 256 px: trained on, tested on, and recognised as they were tested."""
    data = crops(tmp_path / "set", ("bed", "sofa"), stored=stored, enlarged=2)
    protocol = "transfer" if stored else "semi_supervised"
    out = run(protocol, data, tmp_path / "run", "train.target=both", "data.label_share=1")
    assert load_weights(out)[1]["crop_size"] == 64
    assert evaluate.main([str(out), "--data", str(data), "--resamples", "100", "--modality", "rgb", "depth"]) == 0
    lines = (out / "evaluation/set-test/predictions.csv").read_text().splitlines()
    lines = list(csv.DictReader(lines))
    prepared = PreparedSet.open(data)
    recognizer = Recognizer.load(out, device="cpu")
    for name in ("rgb", "depth"):
        pictures = [np.asarray(prepared.images[name][row]) for row in prepared.select("test")]
        assert pictures[0].shape[:2] == (64, 64)
        scores = recognizer.recognize(**{name: pictures}).scores
        tested = [float(line["score"]) for line in lines if line["modality"] == name]
        np.testing.assert_allclose(scores, tested, atol=1e-3)


def test_few_labels_and_one_depth_operation(tmp_path):
    source = crops(tmp_path / "fat", ("can", "mug", "drill"), stored=False)
    few = run("semi_supervised", source, tmp_path / "few")
    assert len((few / "labelled.txt").read_text().split()) == 2  # ceil(.1 x 16)
    assert read_config(few).train.target == "depth"
    hha = crops(tmp_path / "nyud", ("bed", "sofa"), stored=True)
    one = run("depth_augmentation", hha, tmp_path / "one", "augment.depth_op=Speckle", "augment.depth_op_probability=1")
    assert load_weights(one)[1]["trained_modalities"] == ["depth"]


def test_stereo_frames_to_a_figure_on_real_frames(tmp_path, capsys):
    """From raw Falling Things to the test on YCB-Video, each step one command; the right camera is a third modality."""
    frames = fake_falling_things.write_source(tmp_path / "fat")
    (frames / "single/025_mug_16k/kitchen_2/000000.right.jpg").unlink()
    made, real = str(tmp_path / "set"), str(tmp_path / "real")
    common = ("--size", "32", "--min-side", "10", "--workers", "1")
    falling_things = ("falling_things", "--source", str(frames), "--out", made)
    assert prepare.main([*falling_things, "--stereo", "--subset", "single", "mixed", *common]) == 0
    assert f"--config config/protocols/stereo.yaml --data {made}" in capsys.readouterr().out
    video = str(fake_ycb_video.write_source(tmp_path / "video"))
    assert prepare.main(["ycb_video", "--source", video, "--out", real, *common]) == 0
    out = run("stereo", made, tmp_path / "run", "train.target=both")
    assert load_weights(out)[1]["trained_modalities"] == ["rgb", "depth", "rgb_right"]
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"1-5 {s}->{t}" for s in ("rgb", "depth") for t in ("depth", "rgb_right") if s != t} < row.keys()
    assert evaluate.main([str(out), "--data", made, "--split", "val", "--resamples", "100"]) == 0
    figures = json.loads((out / "evaluation/set-val/metrics.json").read_text())
    assert {"rgb", "depth", "rgb_right"} <= figures["modalities"].keys()
    assert evaluate.main([str(out), "--data", real, "--resamples", "100"]) == 0
    figures = json.loads((out / "evaluation/real-test/metrics.json").read_text())
    assert figures["data"]["samples"] == 10
    assert set(figures["modalities"]["rgb"]["per_class"]) == {"004_sugar_box", "025_mug"}
    assert "rgb_right" not in figures["modalities"]
