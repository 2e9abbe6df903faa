"""What is said of a prepared set or of a check, and the command that a set is to be gone on with."""

import numpy as np
import pytest
from small_sets import CLASSES, sample, write_set

from mmcl_core.data import summary
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.runner import Findings
from mmcl_core.data.sources import Plan
from mmcl_core.data.writer import PreparedWriter


@pytest.mark.parametrize(("size", "file"), [(64, "demo.yaml"), (128, "small.yaml")])
def test_many_crops_go_by_their_size(tmp_path, monkeypatch, size, file):
    monkeypatch.setattr(summary, "FEW_CROPS", 2)
    text = summary.next_command(write_set(tmp_path / "set", range(1, 3), size, split="train"))
    assert text.endswith(f"train --config config/{file} --data {tmp_path / 'set'} train.batch=2")


@pytest.mark.parametrize(("count", "words"), [(2, "train.batch=2 train.epochs=300"), (90, "train.epochs=150")])
def test_updates_of_few_crops_are_about_as_many_however_many_there_are(tmp_path, count, words):
    text = summary.next_command(write_set(tmp_path / "set", range(1, count + 1), 65, split="train"))
    assert text.endswith(f"--config config/protocols/few_crops.yaml --data {tmp_path / 'set'} {words}")


def test_samples_of_which_none_has_two_sensors_are_for_classification(tmp_path):
    how = {"classes": CLASSES, "size": 8, "modalities": ("rgb", "depth"), "description": {"made_by": "test"}}
    with PreparedWriter(tmp_path / "set", **how) as writer:
        for number in range(1, 41):
            writer.add(sample(number, split="train", modalities=("rgb",) if number % 5 == 0 else ("depth",)))
    prepared = PreparedSet.open(tmp_path / "set")
    assert np.all(prepared.present.sum(axis=1) == 1)
    assert "method=supervised" in summary.next_command(prepared).split()
    assert "method=supervised" not in summary.next_command(write_set(tmp_path / "both", range(1, 41), split="train"))


@pytest.mark.parametrize(
    ("made_by", "stored", "file", "changes"),
    [
        ("falling_things", False, "paper_falling_things.yaml", []),
        ("falling_things", True, "paper_falling_things.yaml", ["model.depth_encoding=stored"]),
        ("nyud", True, "paper_nyud.yaml", []),
        ("nyud", False, "paper_nyud.yaml", ["model.depth_encoding=hha"]),
        ("folder", True, "small.yaml", ["model.depth_encoding=stored"]),
    ],
)
def test_settings_are_those_of_the_paper_for_its_sets_and_fit_the_kind_of_depth(
    tmp_path, made_by, stored, file, changes
):
    """However few crops there are: neither begins with the model that knows other things."""
    how = {"classes": CLASSES, "size": 65, "modalities": ("rgb", "depth"), "stored": ("depth",) if stored else ()}
    with PreparedWriter(tmp_path / "set", **how, description={"made_by": f"mmcl_core.prepare {made_by}"}) as writer:
        for number in range(1, 5):
            one = sample(number, 65, split="train")
            if stored:
                one.images["depth"] = one.images["rgb"]
            writer.add(one)
    words = summary.next_command(PreparedSet.open(tmp_path / "set")).split()
    assert words[words.index("--config") + 1] == f"config/{file}"
    assert [word for word in words if word.startswith("model.")] == changes


def test_the_summary_counts_what_there_is_and_tells_how_far_it_is(tmp_path):
    """Depth of half of each picture, n cm beyond a metre; no sample whose number five divides has any."""
    how = {"classes": CLASSES, "size": 8, "modalities": ("rgb", "depth"), "description": {"made_by": "test"}}
    with PreparedWriter(tmp_path / "set", **how) as writer:
        for number in range(1, 41):
            one = sample(number)
            if "depth" in one.images:
                one.images["depth"][:4] = 0
                one.images["depth"][4:] = 1000 + 10 * number
            writer.add(one)
    said = summary.summary(PreparedSet.open(tmp_path / "set"))
    lines = {" ".join(words[:-2]): words[-2:] for line in said.splitlines() if len(words := line.split()) > 2}
    order = slice(None, None, 1 if lines["class"] == ["train", "test"] else -1)
    counts = {name: [int(count) for count in words[order]] for name, words in lines.items() if words[0].isdigit()}
    assert counts["all"] == [30, 10]
    assert (counts["without rgb"], counts["without depth"], counts["with a camera"]) == ([0, 0], [6, 2], [10, 10])
    assert sum(counts["(unlabelled)"]) == 5
    assert sum(sum(counts[name]) for name in CLASSES) == 35
    assert said.count("the crops are") == 1
    assert "depth: the crops are 1.20 m away (5 to 95 %: 1.03 to 1.37 m)" in said


@pytest.mark.parametrize(("made_by", "doubted"), [("folder", True), ("coco", True), ("nyud", False)])
def test_far_things_are_doubted_where_the_unit_was_given_by_hand(tmp_path, made_by, doubted):
    how = {"classes": CLASSES, "size": 8, "modalities": ("depth",)}
    with PreparedWriter(tmp_path / "set", **how, description={"made_by": f"mmcl_core.prepare {made_by}"}) as writer:
        one = sample(1, modalities=("depth",))
        one.images["depth"][:] = 9000
        writer.add(one)
    said = summary.summary(PreparedSet.open(tmp_path / "set"))
    assert f"{tmp_path / 'set'}: 1 sample of 3 classes, depth, 8 px" in said
    assert "depth: the crops are 9.00 m away" in said
    assert ("is --depth-unit right?" in said) == doubted


@pytest.mark.parametrize(("whole", "problems"), [(True, ["train: 3 samples expected, found 2"]), (False, [])])
def test_a_part_of_a_set_is_not_held_to_the_numbers_of_the_whole(whole, problems):
    plan = Plan(CLASSES, ("rgb",), [], lambda task: [], 0, {}, expected={"train": 3, "test": 1})
    found = Findings()
    found.samples.update({("train", "can"): 2, ("test", "can"): 1})
    text, wrong = summary.check_summary(plan, found, whole)
    assert wrong == problems
    assert text.splitlines()[-1].split() == ["all", "1", "2"]


def test_more_than_was_published_is_as_wrong_as_less():
    counts = {"frames": (5, 5), "videos": (3, 2), "scenes": (1, 2)}
    plan = Plan(CLASSES, ("rgb",), [], lambda task: [], 0, {}, published=counts)
    _, wrong = summary.check_summary(plan, Findings(), whole=False)
    assert wrong == [
        "videos: 3 found, the published set has 2", "scenes: 1 found, the published set has 2", "nothing usable",
    ]  # fmt: skip
