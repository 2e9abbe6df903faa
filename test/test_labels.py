"""Runs in which few samples have a label, or none: what they learn, and how often labelled samples come."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from mmcl_core import train as command
from mmcl_core.engine.distributed import World
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.samples import Samples
from mmcl_core.engine.trainer import train
from mmcl_core.errors import CheckpointError, ConfigError, UntrainedModalityError
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import load_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("labels") / "set")


def test_probes_of_a_self_supervised_stage(data, tmp_path):
    config = tiny.settings(data, "method=two_step", "train.epochs=3", "train.head_epochs=1", "train.probe=2")
    train(config, tmp_path / "run")
    rows = read_rows(tmp_path / "run", "probe")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all({"knn/rgb", "linear/rgb", "knn/depth", "linear/depth"} <= set(row) for row in rows)
    assert {row["stage"] for row in read_rows(tmp_path / "run", "val")} == {"heads"}


def test_probes_know_the_labels_of_the_run_and_no_others(data):
    """Hidden labels stay hidden from them, too; where the run hides all, they go by those of the set."""
    for share, known in ((1, 32), (0.25, 8), (0, 32)):
        samples = Samples(tiny.settings(data, f"data.label_share={share}"), World(), torch.device("cpu"))
        parts = list(samples.probing.ordered())
        labels, index = (torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "index"))
        kept = samples.labels >= 0 if share else samples.rows >= 0
        assert index.tolist() == samples.rows[kept].tolist()
        assert (labels >= 0).sum() == known
        expected = samples.labels if share else samples.prepared.labels[samples.rows]
        assert labels.tolist() == expected[kept].tolist()


def test_probes_look_at_samples_from_the_whole_of_a_large_set(data, monkeypatch):
    """Neither at its first ones, for sets are often in the order of their classes, nor at every n-th: rendered ones go
    through their classes row by row, and some of these would be left out."""
    monkeypatch.setattr("mmcl_core.engine.samples.PROBE_SAMPLES", 10)
    samples = Samples(tiny.settings(data), World(), torch.device("cpu"))
    index = torch.cat([part.index for part in samples.probing.ordered()]).tolist()
    assert len(samples.rows) == 32
    assert len(index) == len({*index} & {*samples.rows.tolist()}) == 10
    assert index == sorted(index)
    assert len({step for step in np.diff(index)}) > 2
    again = Samples(tiny.settings(data), World(), torch.device("cpu"))
    assert torch.cat([part.index for part in again.probing.ordered()]).tolist() == index


def test_what_was_trained_without_labels_answers_nothing(data, tmp_path, capsys):
    run = tmp_path / "run"
    config = tiny.settings(data, "data.label_share=0", "train.probe=1", "train.epochs=1")
    assert train(config, run).scores == {}
    metadata = load_weights(run)[1]
    assert metadata["trained_modalities"] == []
    assert metadata["encoded_modalities"] == ["rgb", "depth"]
    assert {"knn/rgb", "linear/depth"} <= set(read_rows(run, "probe")[0])  # by the labels of the set
    assert not read_rows(run, "val")
    with pytest.raises(UntrainedModalityError, match="not trained to classify"):
        Recognizer.load(run)
    assert command.main(["--resume", str(run), "--quiet"]) == 0
    assert "next: train with labels and model.init_from=" in capsys.readouterr().out
    assert "Not evaluated yet" not in (run / "report" / "index.html").read_text()  # that would be refused


def test_nobody_is_sent_to_start_from_streams(data, tmp_path, capsys):
    run = tmp_path / "run"
    words = ("method=cmc", "data.label_share=0", "train.epochs=1", "cmc.width=8")
    train(tiny.settings(data, *words), run)
    with pytest.raises(CheckpointError, match="hold no complete encoder"):
        train(tiny.settings(data, *words, f"model.init_from={run}"), tmp_path / "next")
    assert command.main(["--resume", str(run), "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "no training can start from it" in told
    assert "model.init_from=" not in told


@pytest.mark.parametrize("method", ["supervised", "mmcl"])
def test_samples_without_a_label_are_said_to_be_idle_where_they_are(data, tmp_path, caplog, method):
    settings = ("data.label_share=0.5", f"method={method}", "train.epochs=1")
    train(tiny.settings(data, *settings), tmp_path / "kept")
    told = "have no label and teach method supervised nothing; data.unlabelled=drop" in caplog.text
    assert told == (method == "supervised")
    caplog.clear()
    train(tiny.settings(data, *settings, "data.unlabelled=drop"), tmp_path / "dropped")
    assert "teach method" not in caplog.text
    labelled = [(tmp_path / run / "labelled.txt").read_text() for run in ("kept", "dropped")]
    assert labelled[0] == labelled[1]
    steps = [read_rows(tmp_path / run, "train")[-1]["step"] for run in ("kept", "dropped")]
    assert steps[1] == steps[0] // 2


def test_labelled_samples_may_come_more_often(data, tmp_path):
    common = ("data.label_share=0.25", "train.epochs=1", "train.batch=4")
    for repeats in (1, 5, 0, 3):
        train(tiny.settings(data, *common, f"data.label_repeats={repeats}"), tmp_path / str(repeats))
    labelled = [(tmp_path / run / "labelled.txt").read_text().splitlines() for run in ("1", "5")]
    assert labelled[0] == labelled[1]
    # 0 makes half of a batch labelled, three times of a quarter.
    assert read_rows(tmp_path / "0", "train")[-1]["loss"] == read_rows(tmp_path / "3", "train")[-1]["loss"]
    once, often = (read_rows(tmp_path / run, "train")[-1]["step"] for run in ("1", "5"))
    samples = 4 * once + 3  # the last batch may be incomplete
    assert often in {(n + 4 * len(labelled[0])) // 4 for n in range(4 * once, samples + 1)}
    with pytest.raises(ConfigError, match=r"data\.label_repeats"):
        train(tiny.settings(data, "data.label_repeats=-1"), tmp_path / "none")


def test_half_of_a_batch_is_labelled_as_far_as_none_holds_a_sample_twice(data, tmp_path, caplog):
    """Two labelled of 32 samples cannot be half of a batch of 8 without copies of themselves as negatives."""
    common = ("data.label_share=0.06", "train.epochs=1", "train.batch=8")
    for repeats in (0, 4):
        train(tiny.settings(data, *common, f"data.label_repeats={repeats}"), tmp_path / str(repeats))
    assert len((tmp_path / "0" / "labelled.txt").read_text().splitlines()) == 2
    assert read_rows(tmp_path / "0", "train") == read_rows(tmp_path / "4", "train")
    assert "hold samples several times" not in caplog.text
    train(tiny.settings(data, *common, "data.label_repeats=5"), tmp_path / "5")
    assert "with 2 labels some batches of 8 hold samples several times" in caplog.text
