"""Settings: what is refused and how it is put, what is converted, and the way out and back in."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from mmcl_core import sweep, train
from mmcl_core.config import Config, DataConfig, OptimConfig, config_hash, from_dict, load, to_dict
from mmcl_core.engine.runfolder import read_config
from mmcl_core.engine.sweep.table import read_table
from mmcl_core.errors import ConfigError
from mmcl_core.settings import load_yaml


def write(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_is_the_defaults_and_a_file_changes_what_it_names(tmp_path):
    assert load() == Config()
    config = load(write(tmp_path, "method: amdim\ntrain:\n  batch: 32\n  modalities: [rgb]\n"))
    expected = dataclasses.replace(Config(), method="amdim")
    expected = dataclasses.replace(expected, train=dataclasses.replace(expected.train, batch=32, modalities=("rgb",)))
    assert config == expected
    assert load(write(tmp_path, "")) == Config()


def test_the_home_folder_is_known_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "below.yaml").write_text("data: {root: ~/set}\n", encoding="utf-8")
    config = load(write(tmp_path, "base: ~/below.yaml\nout: ~/run\nmodel: {init_from: ~~/run}\n"))
    assert (config.data.root, config.out) == (f"{tmp_path}/set", f"{tmp_path}/run")
    assert config.model.init_from == "~~/run"
    assert load(None, ["model.init_from=~/run"]).model.init_from == f"{tmp_path}/run"
    table = "base: ~/below.yaml\nsets: {mine: ~/set}\ncolumns: {rgb: }\nrows: [{name: a, cells: {rgb: }}]\n"
    assert read_table(write(tmp_path, table)).sets == {"mine": f"{tmp_path}/set"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {batchs: 3}", r"unknown setting 'train\.batchs'; did you mean 'train\.batch'\?"),
        ("metod: mmcl", r"unknown setting 'metod'; did you mean 'method'\?"),
        ("optim: {learning_rate_of_it: 3}", r"unknown setting 'optim\.learning_rate_of_it'; known are name, lr, betas"),
        ("train: {batch: many}", "train.batch must be int, got 'many'"),
        ("train: {batch: 3.5}", "train.batch must be int, got 3.5"),
        ("train: {batch: true}", "train.batch must be int, got True"),
        ("train: {channels_last: 1}", "train.channels_last must be bool, got 1"),
        ("optim: {lr: fast}", "optim.lr must be float, got 'fast'"),
        ("optim: {lr: true}", "optim.lr must be float, got True"),
        ("data: {root: 5}", "data.root must be str, got 5"),
        ("optim: {name: lbfgs}", "optim.name is 'lbfgs'; choose from adam, adamw, muon, sgd"),
        (
            "augment: {depth_set: 3}",
            "augment.depth_set is 3; choose from 0, 1, 2",
        ),
        ("augment: {depth_set: true}", "augment.depth_set is True"),
        ("augment: {depth_op: Posterize}", "augment.depth_op is 'Posterize'; choose from '', Cutout, "),
        ("optim: {betas: [0.5]}", r"optim.betas takes 2 values, got \[0.5\]"),
        ("loss: {level_pairs: [1]}", "loss.level_pairs must be str, got 1"),
        ("epochs: 5", "unknown setting 'epochs'; did you mean 'train.epochs'"),
        ("train: 5", "train must be a mapping, not 5"),
        ("[1, 2]", "holds a list; a mapping"),
        ("a: [", "not valid YAML"),
        ("train: &a {epochs: *a}", "line 1, column 8: found unconstructable recursive node"),
        ("[" * 3000, "not valid YAML: it is nested too deep"),
        (f"train: {{epochs: 1{'0' * 400}}}", "train.epochs is a number of 401 digits, which is too large"),
        (f"optim: {{lr: 1{'0' * 400}}}", "optim.lr is a number of 401 digits"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3\n", r"line 2, column 2: expected ',' or '\]', but got ':', .* sequence that begins in line 1"),
        ("train:\n  epochs: 3\n lr: 4\n", r"line 3, column 2: expected <block end>, .*; check the indentation"),
        ("train:\n\tepochs: 3\n", r"line 2, column 1: found character '\\t' that cannot start any token, .*"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("b: {0.1: 1,\n  0.10: 2}", "line 2, column 3: the key '0.10' comes twice"),
        ("a: 1\nb: {lr: 1,\n  lr: 2}", "line 3, column 3: the key 'lr' comes twice"),
        ("a: 1\nb: \x07", r"line 2, column 4: the character U\+0007 is not allowed"),
        ("seed: 1\nout: 2024-06-31", "line 2, column 6: day is out of range for month"),
        ("a: 1\n---\nb: 2", "line 2, column 1: found another document, expected a single document .*"),
    ],
)
def test_what_is_wrong_with_yaml_is_one_line_with_its_place(tmp_path, text, message):
    path = write(tmp_path, text)
    for read in (load, read_table):
        with pytest.raises(ConfigError, match=rf"^{path} is not valid YAML: {message}$") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="the value is not valid YAML: line 1, column 3: found unexpected end of"):
        load(overrides=["data.root='x"])


def test_settings_and_tables_that_are_taken_for_each_other_point_to_the_right_command(capsys):
    config = Path(__file__).parents[1] / "config"
    bases = {config / "tables/rendered.yaml", config / "tables/small_adamw.yaml"}
    tables = {*(config / "tables").glob("*.yaml")} - bases
    settings = [*config.glob("paper_*.yaml"), *config.glob("protocols/*.yaml"), *bases]
    assert len(tables) > 10
    for path in tables:
        with pytest.raises(ConfigError, match=rf"{path} is a table of runs.* mmcl_core\.sweep --config {path} "):
            load(path)
    for path in settings:
        with pytest.raises(ConfigError, match=rf"{path} holds settings.* mmcl_core\.train --config {path}$"):
            read_table(path)
    assert train.main(["--config", str(config / "tables/table1_rendered.yaml"), "--data", "x"]) == 2
    assert "python -m mmcl_core.sweep --config" in capsys.readouterr().err
    assert sweep.main(["--config", str(config / "small.yaml")]) == 2
    assert "python -m mmcl_core.train --config" in capsys.readouterr().err


def test_commands_in_errors_name_files_as_a_shell_takes_them(tmp_path):
    folder = tmp_path / "my files"
    folder.mkdir()
    for read, text, words in (
        (load, "columns: {}\nrows: []", rf"mmcl_core\.sweep --config '{folder}/settings\.yaml' runs it$"),
        (read_table, "seed: 1", rf"mmcl_core\.train --config '{folder}/settings\.yaml'$"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(write(folder, text))
    with pytest.raises(ConfigError, match=f"start one with --config FILE --out '{folder}/run'$"):
        read_config(folder / "run")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file or directory; the presets are in /.*/config$"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(
        ConfigError, match=r"absent\.yaml: No such file or directory; the tables are in /.*/config/tables$"
    ):
        read_table(tmp_path / "absent.yaml")


def test_merged_keys_may_be_overridden_and_written_keys_come_once():
    text = "base: &base {lr: 1}\nrows:\n  - a: &a {<<: *base, lr: 2}\n  - {<<: *a, k: 1}\n"
    assert load_yaml(text)["rows"] == [{"a": {"lr": 2}}, {"lr": 2, "k": 1}]
    assert load_yaml("a: &a {k: 1}\nb: &b {j: 2}\nc:\n  <<: *a\n  <<: *b\n")["c"] == {"k": 1, "j": 2}
    with pytest.raises(yaml.YAMLError, match="the key 'lr' comes twice"):
        load_yaml("a: {lr: 1, b: 2, lr: 3}")


def test_values_that_yaml_reads_as_another_type(tmp_path):
    config = load(
        write(tmp_path, "optim: {lr: 1e-5, weight_decay: 0, milestones: 4}\ntrain: {compile: off}\ndata: {root: }")
    )
    assert (config.optim.lr, config.optim.weight_decay, config.optim.milestones) == (1e-5, 0.0, (4,))
    assert isinstance(config.optim.weight_decay, float)
    assert config.train.compile == "off"
    assert isinstance(load(overrides=["augment.depth_set=2.0"]).augment.depth_set, int)
    assert config.data.root == ""
    assert load(overrides=["train.compile=on"]).train.compile == "on"


def test_overrides_come_after_the_file_and_after_each_other(tmp_path):
    path = write(tmp_path, "optim: {lr: 0.5}\nseed: 4")
    config = load(path, ["optim.lr=0.25", "seed=5", "seed=6", "train.modalities=[rgb, depth]", "data.root=a=b", "out="])
    assert (config.optim.lr, config.seed, config.data.root, config.out) == (0.25, 6, "a=b", "")
    assert config.train.modalities == ("rgb", "depth")
    assert load(path, ["optim={name: adamw, lr: 0.1}"]).optim == OptimConfig(name="adamw", lr=0.1)
    assert load(path, ["optim={name: adamw}"]).optim == OptimConfig(name="adamw", lr=0.5)  # what it leaves out stays


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "not of the form section.key=value"),
        ("=3", "not of the form"),
        ("trian.batch=3", "unknown section 'trian' in 'trian.batch'; did you mean 'train'"),
        ("train.batchsize=3", "unknown setting 'train.batchsize'; did you mean 'train.batch'"),
        ("optim.lrr=1", r"unknown setting 'optim\.lrr'; did you mean 'optim\.lr'\?"),
        ("epochs=3", "unknown setting 'epochs'; did you mean 'train.epochs'"),
        ("momentum=0.9", r"unknown setting 'momentum'; did you mean 'optim.momentum' or 'cmc.momentum'\?"),
        ("train.modalities=[rgb,", "put the whole in quotes where it holds spaces"),
        ("seed.a=3", "unknown section 'seed' in 'seed.a'; it is a setting"),
        ("train={batch: 8, batch: 4}", "the key 'batch' comes twice"),
        ("train.batch=[", "override 'train.batch=\\[': the value is not valid YAML"),
        ("data.root=2024-13-45", "the value is not valid YAML: .*month must be"),
        ("optim=adamw", "command line: optim must be a mapping, not 'adamw'"),
        ("train.batch=x", "command line: train.batch must be int, got 'x'"),
    ],
)
def test_wrong_overrides_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load(overrides=[override])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes("# für\nseed: 3\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not valid YAML: 'utf-8' codec"):
        load(path)


def test_out_and_in_again_by_yaml_and_json():
    config = load(overrides=["optim.milestones=[3, 9]", "optim.lr=3e-7", "train.compile=off", "data.val_split="])
    assert config.data.val_split == ""
    plain = to_dict(config)
    assert from_dict(yaml.safe_load(yaml.safe_dump(plain))) == config
    assert from_dict(json.loads(json.dumps(plain))) == config


def test_the_hash_names_the_settings_but_not_the_place():
    names = [config_hash(load(overrides=text)) for text in ([], ["out=runs/a"], ["seed=1"], ["optim.lr=3e-4"])]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in names)
    assert config_hash(from_dict(to_dict(Config()))) == names[0]


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataConfig().root = "x"


def test_a_setting_new_in_a_later_version_leaves_the_hash_alone(monkeypatch):
    config = load(overrides=["train.epochs=3", "seed=2"])
    before = config_hash(config)

    def with_a_new_setting(config):
        plain = to_dict(config)
        plain["train"]["of_the_future"] = 0.0
        return plain

    monkeypatch.setattr("mmcl_core.config.to_dict", with_a_new_setting)
    assert config_hash(config) == before
