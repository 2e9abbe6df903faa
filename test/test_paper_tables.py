"""What the tables on the paper's data sets say: its figures, how long and with what every row is trained.

Schedules and the number of operations are in test_sweep_tables.py, the presets in test_protocols.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_core.data import falling_things, fat_crops, nyud, scenenet, washington
from mmcl_core.engine.evaluation import LEGACY_BATCHES
from mmcl_core.engine.sweep.plan import Place, make_plan
from mmcl_core.engine.sweep.table import read_table

ROOT = Path(__file__).resolve().parents[1]
#: Top-1 by table and row, in the order of the columns; None: not in the paper.
FIGURES = {
    "table1": {
        "ce": (92.5, 79.2), "unimodal": (92.3, 85.1), "two_step": (91.1, 84.1), "multi": (94.4, 86.1),
        "ce_ra": (None, None), "unimodal_ra": (92.6, 85.4), "multi_ra": (95.1, 91.6),
        "cmc": (81.2, 56.8), "cmc_long": (86.28, 73.82),
    },
    "table2": {
        "unimodal": (37.8, 55.2), "multi": (42.6, 55.1), "unimodal_ra": (46.4, 55.5), "multi_ra": (49.4, 57.9),
        "multi_ra_long": (50.1,),
    },
    "table3": {
        "scratch": (49.4,), "fat_multi_nyud": (51.9,), "fat_unsupervised_nyud": (53.84,),
        "scenenet_unsupervised_nyud": (59.92,), "pix2pix": (48.2,), "hallucination": (None,), "admd": (57.4,),
        "moddrop": (44.3,), "input_dropout": (49.5,), "input_dropout_either": (52.7,),
    },
    "table4": {
        "none": (55.3,), "cutout": (55.8,), "rotate": (56.2,), "translatex": (55.8,), "translatey": (54.1,),
        "shearx": (55.2,), "sheary": (55.7,), "sharpness": (55.2,), "brightness": (16.3,), "contrast": (18.4,),
        "invert": (14.0,), "equalize": (29.8,), "autocontrast": (20.9,), "speckle": (11.1,), "set1": (55.5,),
        "set2": (55.7,),
    },
}  # fmt: skip


def read(name):
    return read_table(ROOT / f"config/tables/{name}.yaml")


def planned(name):
    """The settings of every row in its first column, those of its pre-training, and how runs start from one another."""
    table = read(name)
    plan = make_plan(table, [0], dry=True)
    column = next(iter(table.columns))
    runs = {row: plan.runs[plan.keys[Place(row, column, None, 0)]] for row in table.rows if table.rows[row].shown}
    sources = {row: plan.runs[run.source].config for row, run in runs.items() if run.source}
    return {row: run.config for row, run in runs.items()}, sources


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_the_papers(name):
    rows = {name: row for name, row in read(name).rows.items() if row.shown}
    figures = {name: [cell.figure(None) for cell in row.cells.values()] for name, row in rows.items()}
    assert {name: tuple(next(iter(one), None) for one in some) for name, some in figures.items()} == FIGURES[name]
    spread = {name: one[1] for name, some in figures.items() for one in some if len(one) > 1}
    known = {"fat_unsupervised_nyud": 0.77, "scenenet_unsupervised_nyud": 0.59} if name == "table3" else {}
    assert spread == known


def test_the_figures_for_few_labels_are_the_papers():
    rows = read("figure3").rows
    assert {name: row.cells["depth"].figure(0.1) for name, row in rows.items()} == {
        "unimodal": (55.5,),
        "multi": (73.7,),
    }
    for name, row in rows.items():  # with all labels those of Table I
        assert (*row.cells["rgb"].figure(1.0), *row.cells["depth"].figure(1.0)) == FIGURES["table1"][name]


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_every_row_has_the_papers_epochs_batch_and_augmentation(name):
    rows, _ = planned(name)
    epochs = {"ce": 100, "ce_ra": 100, "two_step": 100, "cmc": 100, "cmc_long": 400, "multi_ra_long": 260}
    for row, config in rows.items():
        assert config.train.epochs == epochs.get(row, 130), row
        assert config.train.batch == {"table1": 140, "table2": 40}[name], row
        assert config.augment.policy == ("paper" if "_ra" in row else "none"), row
        assert config.train.target == ("both" if config.method == "cmc" else "rgb"), row
        alone = config.method in ("supervised", "amdim")
        assert config.train.modalities == (("rgb",) if alone else ("rgb", "depth")), row
        assert not config.amdim.classify_both, row
    if name == "table1":
        assert rows["two_step"].train.head_epochs == 30
        assert (rows["cmc"].cmc.probe_epochs, rows["cmc_long"].cmc.probe_epochs) == (30, 100)


def test_pre_training_is_on_the_other_set_and_what_follows_as_from_scratch():
    rows, sources = planned("table3")
    assert list(sources) == ["fat_multi_nyud", "fat_unsupervised_nyud", "scenenet_unsupervised_nyud"]
    for row, source in sources.items():
        assert rows[row] == rows["scratch"], row
        assert (source.method, source.train.epochs, source.train.batch, source.augment.policy) == (
            "mmcl", 130, 140, "paper",
        )  # fmt: skip
        assert source.data.label_share == (1.0 if row == "fat_multi_nyud" else 0.0)
        assert source.model.depth_encoding == ("stored" if "scenenet" in row else "replicate")
    scratch = rows["scratch"]
    assert (scratch.method, scratch.train.target, scratch.train.epochs, scratch.train.batch) == ("mmcl", "rgb", 130, 40)
    assert (scratch.augment.policy, scratch.data.label_share) == ("paper", 1.0)


def test_compared_methods_have_the_networks_and_settings_of_their_authors():
    rows, _ = planned("table3")
    compared = {row: config for row, config in rows.items() if config.method != "mmcl"}
    names = ("pix2pix", "hallucination", "admd", "moddrop", "input_dropout", "input_dropout")
    assert tuple(config.method for config in compared.values()) == names
    for row, config in compared.items():
        model, optim = config.model, config.optim
        assert (model.backbone, model.nrkhs, model.predict_with) == ("resnet50", 128, "linear"), row
        assert model.backbone_weights.endswith("resnet50_imagenet.pth"), row
        assert (optim.name, optim.lr, optim.betas, optim.weight_decay) == ("adam", 1e-4, (0.9, 0.999), 0), row
        assert (optim.schedule, optim.warmup_steps, config.train.batch) == ("constant", 0, 64), row
        assert (config.train.target, config.augment.policy, model.depth_encoding) == ("rgb", "none", "stored"), row
    dropped = compared["input_dropout"].input_dropout, compared["input_dropout_either"].input_dropout
    assert [(one.drop, one.probability) for one in dropped] == [("other", 0.5), ("either", 0.5)]
    moddrop, gan, admd = compared["moddrop"].moddrop, compared["pix2pix"].pix2pix, compared["admd"].admd
    assert (moddrop.modality_keep, moddrop.input_keep, moddrop.alone_epochs) == (0.9, 0.8, 59)
    assert (gan.gan_epochs, gan.width, gan.l1_weight, gan.lr, gan.betas) == (200, 64, 100, 2e-4, (0.5, 0.999))
    assert (admd.alone_epochs, admd.together_epochs, compared["admd"].train.epochs) == (59, 15, 146)
    assert (admd.hidden, admd.lr, admd.betas, admd.finetune_epochs) == (1024, 1e-6, (0.9, 0.999), 0)


def test_one_operation_at_a_time_is_the_rows_and_applied_to_all():
    rows, _ = planned("table4")
    for row, config in rows.items():
        augment, named = config.augment, row not in ("none", "set1", "set2")
        assert (config.method, config.train.modalities, config.train.epochs) == ("amdim", ("depth",), 130), row
        assert (augment.policy, augment.depth_magnitude) == ("none" if row == "none" else "paper", 4), row
        assert augment.depth_op.lower() == (row if named else ""), row
        assert augment.depth_op_probability == 1, row
    assert [rows[f"set{number}"].augment.depth_set for number in (1, 2)] == [1, 2]


def test_numbers_of_samples_are_the_published_ones():
    assert fat_crops.EXPECTED == {"train": 18_640, "val": 6_267}
    assert sum(falling_things.SUBSETS.values()) == 61_500
    assert nyud.EXPECTED == {"train": 2_186, "test": 2_401}
    assert scenenet.parse_bounds("", scenenet.PAPER) == {"train": 202_747, "val": 33_574}
    assert (len(washington.CLASSES), washington.INSTANCES, washington.EVERY_FIFTH) == (51, 300, 41_877)
    assert LEGACY_BATCHES == 50
