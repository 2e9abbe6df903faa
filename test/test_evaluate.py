"""Evaluation: every sample once, figures that follow from the predictions, and the answers of the recogniser."""

import cv2
import numpy as np
import pytest
from small_evaluations import CLASSES, read, run, run_command, trained, write_set
from small_models import SIDE
from small_sets import full_disk

from mmcl_core import evaluate, metrics
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.writer import PreparedWriter
from mmcl_core.recognizer import Recognizer

__all__ = ["run", "trained"]  # fixtures


def test_every_sample_once_and_figures_that_follow_from_the_predictions(run, tmp_path, capsys):
    data = write_set(tmp_path / "set")
    run_command(run, "--data", data)
    out = run / "evaluation" / "set-test"
    report, lines = read(out)
    assert list(report["modalities"]) == ["rgb", "depth", "rgbd"]
    for name, figures in report["modalities"].items():
        own = [line for line in lines if line["modality"] == name]
        assert [line["key"] for line in own] == [f"k{i:03d}" for i in range(23)]
        assert [line["class"] for line in own] == [CLASSES[i % 3] for i in range(23)]
        assert [line["group"] for line in own] == [f"scene{i % 5}" for i in range(23)]
        right = [line["class"] == line["predicted"] for line in own]
        assert figures["top1"]["value"] == pytest.approx(sum(right) / 23)
        assert figures["top1"]["low"] <= figures["top1"]["value"] <= figures["top1"]["high"]
        assert figures["top5"]["value"] == 1
        assert figures["samples"] == 23
        by_group = {}
        for line, hit in zip(own, right, strict=True):
            by_group.setdefault((line["group"], line["class"]), []).append(hit)
        assert figures["groups"] == len(by_group) == 15
        assert figures["group_mean"]["value"] == pytest.approx(np.mean([np.mean(hits) for hits in by_group.values()]))
        for c, label in enumerate(CLASSES):
            for d, other in enumerate(CLASSES):
                count = sum(line["class"] == label and line["predicted"] == other for line in own)
                assert figures["confusion"][c][d] == count
            assert figures["per_class"][label]["support"] == sum(line["class"] == label for line in own)
        for line in own:
            assert sum(float(line[key]) for key in ("score", "score2", "score3")) == pytest.approx(1, abs=1e-5)
        assert 0.5 < figures["top1"]["value"] < 1
    printed = capsys.readouterr().out
    assert f"{report['modalities']['rgb']['top1']['value']:.3f} [" in printed
    assert printed.rstrip().endswith("index.html")
    assert (run / "report" / "index.html").exists()
    assert cv2.imread(str(out / "confusion.png")) is not None


def test_samples_of_unknown_groups_are_no_near_duplicates(run, tmp_path):
    data = write_set(tmp_path / "set", count=24, groups=lambda i: "scene" if i < 6 else "")
    run_command(run, "--data", data)
    report, lines = read(run / "evaluation" / "set-test")
    for name, figures in report["modalities"].items():
        hits = np.array([line["class"] == line["predicted"] for line in lines if line["modality"] == name])
        means = [*hits[:6].reshape(2, 3).mean(axis=0), *hits[6:]]
        assert figures["groups"] == len(means) == 21
        assert figures["group_mean"]["value"] == pytest.approx(np.mean(means))


def test_the_recogniser_gives_the_same_answers(run, tmp_path, capsys):
    data = write_set(tmp_path / "set", blank=(4, 11))
    run_command(run, "--data", data)
    report, lines = read(run / "evaluation" / "set-test")
    blank = {name: figures["without_reading"] for name, figures in report["modalities"].items()}
    assert blank == {"rgb": 0, "depth": 2, "rgbd": 2}
    assert "depth: the depth of 2 samples has no reading" in capsys.readouterr().out
    prepared, recognizer = PreparedSet.open(data), Recognizer.load(run, device="cpu")
    rgb, depth = (list(np.asarray(prepared.images[name][:23])) for name in ("rgb", "depth"))
    camera = prepared.camera[:23]
    for name, crops in (("rgb", {"rgb": rgb}), ("depth", {"depth": depth}), ("rgbd", {"rgb": rgb, "depth": depth})):
        answer = recognizer.recognize(**crops, camera=camera)
        own = [line for line in lines if line["modality"] == name]
        seen = [bool(used) for used in answer.modality]
        assert seen == [name != "depth" or row not in (4, 11) for row in range(23)]
        assert [answer.labels[row] for row in np.flatnonzero(seen)] == [
            own[row]["predicted"] for row in np.flatnonzero(seen)
        ]
        scores = np.where(seen, answer.scores, 1 / len(CLASSES))  # a guess
        np.testing.assert_allclose(scores, [float(line["score"]) for line in own], atol=1e-4)


def test_a_mirrored_look_gives_the_answers_of_the_recogniser(run, tmp_path, capsys):
    data = write_set(tmp_path / "set", blank=(4, 11))
    run_command(run, "--data", data, "--mirror")
    run_command(run, "--data", data, "--mirror", "--precision", "bf16")  # beside it, not in its place
    assert "set, split test, mirrored, bfloat16" in (run / "report" / "index.html").read_text()
    report, lines = read(run / "evaluation" / "set-test-mirror")
    assert report["settings"]["mirror"] is True
    assert "mirrored: " in capsys.readouterr().out
    prepared, recognizer = PreparedSet.open(data), Recognizer.load(run, device="cpu", mirror=True)
    rgb, depth = (list(np.asarray(prepared.images[name][:23])) for name in ("rgb", "depth"))
    for name, crops in (("rgb", {"rgb": rgb}), ("depth", {"depth": depth}), ("rgbd", {"rgb": rgb, "depth": depth})):
        answer = recognizer.recognize(**crops, camera=prepared.camera[:23])
        scores = np.where(np.array(answer.modality) == "", 1 / len(CLASSES), answer.scores)
        own = [float(line["score"]) for line in lines if line["modality"] == name]
        np.testing.assert_allclose(scores, own, atol=1e-4)


def test_cameras_can_be_withheld(run, tmp_path, capsys):
    data = write_set(tmp_path / "set")
    for option in ((), ("--hide-camera",)):
        run_command(run, "--data", data, "--modality", "depth", *option)
    (known, usual), (hidden, lines) = (read(run / "evaluation" / name) for name in ("set-test", "set-test-no-camera"))
    assert known["data"]["without_camera"] == 11
    assert hidden["data"]["without_camera"] == 23
    assert "without a camera: 23 samples" in capsys.readouterr().out
    depth = list(np.asarray(PreparedSet.open(data).images["depth"][:23]))
    answer = Recognizer.load(run, device="cpu").recognize(depth=depth)
    np.testing.assert_allclose(answer.scores, [float(line["score"]) for line in lines], atol=1e-4)
    changed = [line["score"] != other["score"] for line, other in zip(usual, lines, strict=True)]
    assert changed == [i % 2 == 0 for i in range(23)]  # every second sample had no camera before


def test_withheld_cameras_are_as_good_as_none_under_the_authors_protocol_too(run, tmp_path):
    for name, cameras, option in (("a", True, ("--hide-camera",)), ("b", False, ())):
        data = write_set(tmp_path / name, cameras=cameras)
        run_command(run, "--data", data, "--modality", "depth", "--legacy-protocol", *option, "--out", data / "out")
    assert read(tmp_path / "a" / "out")[1] == read(tmp_path / "b" / "out")[1]


def test_two_runs_write_the_same_bytes(run, tmp_path):
    data = write_set(tmp_path / "set")
    for name in ("a", "b"):
        run_command(run, "--data", data, "--out", tmp_path / name, "--modality", "depth")
    for name in ("predictions.csv", "metrics.json", "samples.json", "confusion.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert list(read(tmp_path / "a")[0]["modalities"]) == ["depth"]
    run_command(run, "--data", data, "--out", tmp_path / "c", "--modality", "depth", "--seed", "1")
    one, other = (read(tmp_path / name)[0]["modalities"]["depth"]["ece"] for name in ("a", "c"))
    assert (one["value"] == other["value"], one["low"] == other["low"]) == (True, False)  # of the bootstrap alone


def test_classes_are_matched_by_name(run, tmp_path):
    """Another order, a class fewer, and a class the model does not know."""
    usual = write_set(tmp_path / "usual", classes=("mug", "pen", "kite"))
    other = write_set(tmp_path / "other", classes=("pen", "kite", "mug"))
    for data in (usual, other):
        run_command(run, "--data", data, "--modality", "rgb", "--out", data / "out")
    report, lines = read(usual / "out")
    kept = [i for i in range(23) if i % 3 != 2]
    assert [line["key"] for line in lines] == [f"k{i:03d}" for i in kept]
    assert report["data"]["left_out"] == {"unlabelled": 0, "unknown_classes": {"kite": 7}, "incomplete_batch": 0}
    figures = report["modalities"]["rgb"]
    assert list(figures["per_class"]) == ["mug", "pen"]
    scores = np.array(
        [[dict([(x["predicted"], x["score"]), (x["top2"], x["score2"]), (x["top3"], x["score3"])])[c] for c in CLASSES]
         for x in lines], float)  # fmt: skip
    among = [("mug", "pen")[int(row[2] > row[0])] == line["class"] for row, line in zip(scores, lines, strict=True)]
    assert figures["restricted"] == {"classes": 2, "top1": pytest.approx(np.mean(among))}
    swapped = {line["key"]: line for line in read(other / "out")[1]}
    for line in lines:
        if line["key"] in swapped:
            assert swapped[line["key"]]["predicted"] == line["predicted"]


def test_a_modality_that_no_sample_of_the_split_has_is_left_out(run, tmp_path, capsys):
    data = write_set(tmp_path / "set", drop=lambda i: ("depth",) if i < 23 else ())  # the training split has both
    run_command(run, "--data", data)
    assert list(read(run / "evaluation" / "set-test")[0]["modalities"]) == ["rgb"]
    assert "has depth here: it is left out" in capsys.readouterr().err
    assert evaluate.main([str(run), "--data", str(data), "--modality", "depth"]) == 2
    assert "has the modality 'depth'; leave it out" in capsys.readouterr().err
    apart = write_set(tmp_path / "apart", drop=lambda i: ("depth",) if i % 2 else ("rgb",))
    run_command(run, "--data", apart)
    assert list(read(run / "evaluation" / "apart-test")[0]["modalities"]) == ["rgb", "depth"]


def test_missing_pictures_and_labels_are_counted(run, tmp_path):
    data = write_set(tmp_path / "set", drop=lambda i: ("depth",) if i % 4 == 0 else ("rgb",) if i == 5 else ())
    labels = np.fromfile(data / "labels.i64", "<i8")
    prepared = tmp_path / "unlabelled"
    with PreparedWriter(prepared, classes=CLASSES, size=SIDE, modalities=("rgb", "depth")) as writer:
        source = PreparedSet.open(data)
        for row in range(len(labels)):
            sample = source.sample(row)
            sample.label = -1 if row in (1, 2) else sample.label
            writer.add(sample)
    run_command(run, "--data", prepared)
    report, lines = read(run / "evaluation" / "unlabelled-test")
    assert report["data"]["samples"] == 21
    assert report["data"]["left_out"]["unlabelled"] == 2
    expected = {"rgb": (20, 1), "depth": (15, 6), "rgbd": (14, 7)}
    for name, (samples, missing) in expected.items():
        figures = report["modalities"][name]
        assert (figures["samples"], figures["missing"]) == (samples, missing)
        assert sum(line["modality"] == name for line in lines) == samples
    run_command(run, "--data", write_set(tmp_path / "whole"))
    whole = {(line["modality"], line["key"]): line["score"] for line in read(run / "evaluation" / "whole-test")[1]}
    for line in lines:  # its own camera's answer, whatever other samples lack
        assert float(line["score"]) == pytest.approx(float(whole[line["modality"], line["key"]]), abs=1e-4)


def test_legacy_protocol_is_marked_and_uses_the_test_statistics(run, tmp_path, capsys):
    data = write_set(tmp_path / "set")
    before = (run / "weights.safetensors").read_bytes()
    run_command(run, "--data", data, "--modality", "rgb", "--out", tmp_path / "clean")
    run_command(run, "--data", data, "--modality", "rgb", "--legacy-protocol")
    out = run / "evaluation" / "set-test-legacy"
    (clean, clean_lines), (report, lines) = read(tmp_path / "clean"), read(out)
    assert report["protocol"].startswith("LEGACY")
    told = capsys.readouterr().out
    assert "!! LEGACY" in told
    assert "left out: 3 of the last, incomplete batch" in told
    assert "3 samples of the last, incomplete batch" in (run / "report" / "index.html").read_text()
    assert clean["protocol"].startswith("clean")
    assert report["modalities"]["rgb"]["samples"] == report["data"]["samples"] == 20  # the last batch of 4 had 3
    assert report["data"]["left_out"]["incomplete_batch"] == 3
    assert clean["data"]["left_out"]["incomplete_batch"] == 0
    keys = {line["key"] for line in lines}
    assert len(keys) == 20
    assert keys != {f"k{i:03d}" for i in range(20)}  # shuffled before the last batch is dropped
    scores = {line["key"]: line["score"] for line in clean_lines}
    assert any(abs(float(line["score"]) - float(scores[line["key"]])) > 1e-3 for line in lines)
    assert (run / "weights.safetensors").read_bytes() == before


def test_legacy_protocol_counts_what_lacks_a_sensor_among_what_it_looks_at(run, tmp_path):
    data = write_set(tmp_path / "set", drop=lambda i: ("depth",) if i % 4 == 0 else ("rgb",) if i % 4 == 1 else ())
    run_command(run, "--data", data, "--legacy-protocol", "--out", tmp_path / "out")
    report, _ = read(tmp_path / "out")
    for figures in report["modalities"].values():
        assert figures["samples"] + figures["missing"] == report["data"]["samples"] == 20


def test_legacy_protocol_has_the_batch_of_the_training(run, tmp_path):
    data = write_set(tmp_path / "set")
    common = [str(run), "--data", str(data), "--modality", "rgb", "--resamples", "100", "--quiet"]
    legacy = [*common, "--legacy-protocol"]
    assert (
        evaluate.main(legacy) == 2
    )  # settings of the training are not known, and 23 samples do not fill a batch of 64
    (run / "config.yaml").write_text("train: {batch: 9}\n")
    cases = ((legacy, "9", 18), ([*legacy, "--batch", "5"], "5", 20), (common, "64", 23))
    for number, (line, batch, samples) in enumerate(cases):
        assert evaluate.main([*line, "--out", str(tmp_path / str(number))]) == 0
        report, _ = read(tmp_path / str(number))
        assert report["settings"]["batch"] == int(batch)
        assert report["modalities"]["rgb"]["samples"] == samples
        assert (f"TEST batches of {batch} " in report["protocol"]) == (line != common)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "val"], "no split 'val'; it has test, train"),
        (["--modality", "rgb_right"], "not rgb_right"),
        (["--device", "cuda:42"], "cuda:42"),
        (["--batch", "0"], "at least 1"),
        (["--threads", "1025"], "--threads from 0 to 1024"),
        (["--resamples", "99"], "--resamples is 99; at least 100 are needed"),
        (["--seed", "-1"], "--seed at least 0"),
    ],
)
def test_errors_are_one_line(run, tmp_path, capsys, options, message):
    data = write_set(tmp_path / "set", count=4)
    assert evaluate.main([str(run), "--data", str(data), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (run / "evaluation").exists()


def test_figures_of_a_run_that_cannot_be_written_to(run, tmp_path, capsys):
    data = write_set(tmp_path / "set", count=4)
    (run / "report").write_text("in the way")
    run_command(run, "--data", data, "--out", tmp_path / "figures")
    out, err = capsys.readouterr()
    assert f"figures:  {tmp_path / 'figures' / 'metrics.json'}" in out
    assert f"pictures: {tmp_path / 'figures' / 'confusion.png'}" in out
    assert (tmp_path / "figures" / "confusion.png").is_file()
    assert "is put beside the figures" in err
    assert (tmp_path / "figures" / "report" / "index.html").is_file()


def test_a_foreign_file_in_a_run_keeps_no_figures_back(run, tmp_path, capsys):
    data = write_set(tmp_path / "set", count=4)
    (run / "evaluation" / "mine").mkdir(parents=True)
    (run / "evaluation" / "mine" / "metrics.json").write_text('{"loss": 5}')
    run_command(run, "--data", data)
    out, err = capsys.readouterr()
    assert "figures:" in out
    assert str(run / "evaluation" / "mine" / "metrics.json") in err
    assert (run / "evaluation" / "set-test" / "report" / "index.html").is_file()


def test_results_on_another_set_of_the_same_name_are_not_replaced_without_a_word(run, tmp_path, capsys):
    first, second = (write_set(tmp_path / place / "set", count=count) for place, count in (("here", 5), ("there", 6)))
    for data, told in ((first, False), (first, False), (second, True)):
        run_command(run, "--data", data)
        assert (f"the results on {first} that were in" in capsys.readouterr().err) is told
        assert read(run / "evaluation" / "set-test")[0]["data"]["path"] == str(data)


def test_a_weights_file_alone_can_be_evaluated(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    weights = (run / "weights.safetensors").rename(tmp_path / "elsewhere" / "model.safetensors")
    run_command(weights, "--data", write_set(tmp_path / "set", count=6), "--modality", "rgb")
    out = tmp_path / "elsewhere" / "evaluation" / "model-set-test"
    assert (out / "report" / "index.html").exists()
    report, _ = read(out)
    figures = report["modalities"]["rgb"]
    assert figures["ece"]["value"] == pytest.approx(
        sum(
            n / 6 * abs(a - c)
            for n, a, c in zip(*(figures["calibration"][k] for k in ("samples", "accuracy", "confidence")), strict=True)
            if n
        )
    )
    assert metrics.per_class(figures["confusion"])["support"].sum() == 6


def test_a_disk_that_is_full_leaves_the_results_that_were_there(run, tmp_path):
    data, out = write_set(tmp_path / "set", count=6), tmp_path / "results"
    run_command(run, "--data", data, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with full_disk(len(before["predictions.csv"])):  # the pictures are larger
        run_command(run, "--data", data, "--out", out, "--modality", "rgb", status=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
