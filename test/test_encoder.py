"""Encoder and model: sizes, parameter counts, agreement with the plain formulation, modes of failure."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmcl_core.config import ModelConfig
from mmcl_core.engine import plain
from mmcl_core.engine.measure import _count_flops
from mmcl_core.errors import CheckpointError, ConfigError, InputError, UntrainedModalityError
from mmcl_core.nn.authors import load_authors_state
from mmcl_core.nn.encoder import Encoder, ResidualUnit
from mmcl_core.nn.heads import Classifier
from mmcl_core.nn.model import RecognitionModel, encoder_settings
from mmcl_core.weights import save_weights

BOTH = ("rgb", "depth")


def small_encoder(size=32, ndf=4, nrkhs=24, depth=2, unit_norm=False, started=True, **more):
    torch.manual_seed(0)
    encoder = Encoder(size, ndf, nrkhs, depth, unit_norm, BOTH, **more)
    if started:  # second convolutions start at zero, which would hide most of the network
        for name, parameter in encoder.named_parameters():
            if name.endswith("conv2.weight"):
                torch.nn.init.normal_(parameter, std=0.3)
            if "norm" in name:
                torch.nn.init.normal_(parameter, 1, 0.2)
    return encoder


def pictures(size=32, batch=6):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("classes", "expected"), [(21, 93_730_474), (19, 93_726_374)])
def test_trainable_parameters_of_the_paper_model(classes, expected):
    with torch.device("meta"):
        model = RecognitionModel(ModelConfig(), BOTH, classes)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    assert sum(p.numel() for p in model.encoder.parameters()) == 92_636_800


def test_cost_of_the_paper_model():
    """GFLOP a picture: f1 and both heads, f1 alone, and forward and backward."""
    with torch.device("meta"):
        encoder = RecognitionModel(ModelConfig(), BOTH, 21).encoder
        picture = torch.empty(2, 3, 128, 128)

    def learn():
        features = encoder(picture, "rgb")
        torch.stack([feature.sum() for feature in features]).sum().backward()

    calls = (lambda: encoder(picture, "rgb"), lambda: encoder(picture, "rgb", levels=()), learn)
    costs = [_count_flops(call) / len(picture) / 1e9 for call in calls]
    assert costs == pytest.approx([10.23, 9.77, 30.6], rel=1e-3)


@pytest.mark.parametrize("size", [128, 64, 32])
@pytest.mark.parametrize(("ndf", "nrkhs", "depth"), [(4, 32, 1), (3, 40, 2), (4, 10, 3)])
def test_maps_are_7_5_and_1_for_any_width_and_depth(size, ndf, nrkhs, depth):
    features = small_encoder(size, ndf, nrkhs, depth)(pictures(size, 2), "rgb")
    assert features.f1.shape == (2, nrkhs)
    assert features.f5.shape == (2, nrkhs, 5, 5)
    assert features.f7.shape == (2, nrkhs, 7, 7)


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize(("size", "nrkhs"), [(128, 40), (64, 10), (32, 16)])
def test_values_and_gradients_are_those_of_the_plain_formulation(size, nrkhs, unit_norm):
    encoder = small_encoder(size, nrkhs=nrkhs, unit_norm=unit_norm)
    x = pictures(size)
    results = []
    for features in (encoder(x, "depth"), plain.encode(encoder, x)):
        weights = [torch.linspace(-1, 1, f.numel()).view_as(f) for f in features]
        loss = sum((f * w).sum() for f, w in zip(features, weights, strict=True))
        results.append((features, torch.autograd.grad(loss, list(encoder.parameters()))))
    (fast, fast_grads), (slow, slow_grads) = results
    for a, b in zip(fast, slow, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()
    for (name, _), a, b in zip(encoder.named_parameters(), fast_grads, slow_grads, strict=True):
        scale = b.norm() + 1e-3 * max(g.norm() for g in slow_grads)  # a bias in front of a BatchNorm has none
        assert (a - b).norm() < 1e-3 * scale, name


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    config = ModelConfig(input_size=32, ndf=4, nrkhs=24, depth=3, head_hidden=16)
    model = RecognitionModel(config, BOTH, 5)
    model.encoder = small_encoder(depth=3)
    f1, f5, f7 = model.encoder(pictures(), "rgb")
    logits = model.classifier(f1, "rgb")
    loss = sum((t * torch.randn_like(t)).sum() for t in (f5, f7, *logits))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("shortcut.bias"):  # the BatchNorm behind it takes a constant out again
            assert parameter.grad.abs().max() > 1e-6, name


def test_norms_that_are_off_do_not_exist():
    off = {name for name, _ in small_encoder().named_parameters() if "norm" in name}
    assert {name.rsplit(".", 1)[0] for name in off} == {"norm", "heads.5.norm", "heads.7.norm"}
    assert any("to3.1.norm" in name for name, _ in small_encoder(unit_norm=True).named_parameters())


@pytest.mark.parametrize("size", [128, 64, 32])
def test_only_pools_wider_than_a_pixel_are_computed(size, monkeypatch):
    kernels = []
    pool = F.avg_pool2d
    monkeypatch.setattr(F, "avg_pool2d", lambda x, k, s: kernels.append(k) or pool(x, k, s))
    small_encoder(size, depth=4)(pictures(size, 2), "rgb")
    assert kernels == ([4, 2] if size == 32 else [4, 4, 2]) + [3, 3, 3]


def test_the_first_convolution_mirrors_the_border():
    """Zeros around the picture would make a frame of its own, which every map would see."""
    first, second = small_encoder(128).stem
    x = pictures(128, 2)
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    torch.testing.assert_close(first(x), F.conv2d(padded, first.weight, first.bias, stride=2))
    assert first(x).shape[2:] == (64, 64)
    assert second(first(x)).shape[2:] == (62, 62)


def test_a_unit_starts_as_its_skip():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    wide, narrow, same = (
        ResidualUnit(4, n, k, s, False, BOTH)(x, "rgb") for n, k, s in ((6, 4, 2), (3, 2, 2), (4, 1, 1))
    )
    torch.testing.assert_close(wide, torch.cat([F.avg_pool2d(x, 4, 2), torch.zeros(2, 2, 3, 3)], 1))
    torch.testing.assert_close(narrow, F.avg_pool2d(x, 2)[:, :3])
    torch.testing.assert_close(same, x)


def test_initial_weights():
    encoder = small_encoder(started=False)
    named = dict(encoder.named_parameters())
    assert all(not p.any() for name, p in named.items() if name.endswith("conv2.weight"))
    shortcut = named["heads.5.shortcut.weight"][:, :, 0, 0]
    on_diagonal = torch.eye(*shortcut.shape, dtype=torch.bool)
    assert (shortcut[on_diagonal] == 1).all()
    assert shortcut[~on_diagonal].abs().max() <= 0.01
    assert shortcut[~on_diagonal].std() > 0.004
    first = named["to5.0.conv1.weight"]
    assert first.abs().max() <= first[0].numel() ** -0.5
    assert first.abs().max() > 0.95 * first[0].numel() ** -0.5


def test_feature_heads_can_be_left_out_and_chosen():
    x = pictures()
    encoder = small_encoder()
    full = encoder(x, "rgb")
    assert encoder(x, "rgb", levels=(1,)).f5 is None
    assert torch.equal(encoder(x, "rgb", levels=(7,)).f7, full.f7)
    assert small_encoder(feature_heads=[7])(x, "rgb").f5 is None
    without = small_encoder(feature_heads=False)
    assert not [key for key in without.state_dict() if "heads" in key]
    without.load_state_dict({key: value for key, value in encoder.state_dict().items() if "heads" not in key})
    assert without(x, "rgb")[1:] == (None, None)
    assert torch.equal(without(x, "rgb").f1, full.f1)


def test_an_untrained_modality_is_refused_before_any_work():
    encoder = small_encoder()
    encoder(pictures(), "rgb", levels=())
    encoder.eval()
    assert encoder(pictures(), "rgb", levels=()).f1.isfinite().all()
    with pytest.raises(UntrainedModalityError, match=r"'depth'.*trained: rgb"):
        encoder(pictures(), "depth")
    with pytest.raises(UntrainedModalityError, match="'rgb'"):
        encoder(pictures(), "rgb", levels=(5,))  # its head was never trained
    with pytest.raises(UntrainedModalityError, match="'thermal'"):
        encoder.train()(pictures(), "thermal")


def test_embeddings_are_float32_under_autocast_and_close():
    encoder = small_encoder(64, ndf=8, nrkhs=64).to(memory_format=torch.channels_last)
    x = pictures(64).contiguous(memory_format=torch.channels_last)
    exact = encoder(x, "rgb")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(x, "rgb")
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.1 * b.norm()
    assert rounded.f7.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_is_one_graph_for_the_compiler(training):
    encoder = small_encoder()
    x = pictures()
    for modality in BOTH:
        encoder(x, modality)
    encoder.train(training)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    for modality in BOTH:
        torch.testing.assert_close(compiled(x, modality).f7, encoder(x, modality).f7)


def test_wrong_input_and_impossible_settings_are_named():
    with pytest.raises(InputError, match=r"3, 32, 32.*\[6, 3, 64, 64\]"):
        small_encoder()(pictures(64), "rgb")
    with pytest.raises(ConfigError, match="input_size is 96"):
        small_encoder(96)
    with pytest.raises(ConfigError, match="positive"):
        small_encoder(depth=0)
    with pytest.raises(ConfigError, match="levels 5 and 7"):
        small_encoder(feature_heads=[3])
    with pytest.raises(ConfigError, match="modalities"):
        Encoder(32, 4, 8, 1, False, "rgb")
    with pytest.raises(ConfigError, match="dropout"):
        RecognitionModel(ModelConfig(dropout=1.0), BOTH, 3)


def test_both_classifiers_see_the_embedding():
    torch.manual_seed(0)
    classifier = Classifier(8, 3, 16, 0.5, BOTH)
    f1 = torch.randn(64, 8)
    trained = [classifier(f1, "rgb") for _ in range(2)]
    assert torch.equal(trained[0].linear, F.linear(f1, classifier.linear.weight, classifier.linear.bias))
    assert not torch.equal(trained[0].mlp, trained[1].mlp)
    inputs = []
    for layer in (classifier.hidden, classifier.output):
        layer.register_forward_pre_hook(lambda module, given: inputs.append((given[0] == 0).float().mean().item()))
    classifier(f1, "rgb")
    assert inputs == pytest.approx([0.5, 0.75], abs=0.08)  # dropout before either; before the second also ReLU
    classifier.eval()
    norm = classifier.norm.statistics["rgb"]
    hidden = (f1 @ classifier.hidden.weight.T - norm.mean) / (norm.var + 1e-5).sqrt()
    expected = hidden.relu() @ classifier.output.weight.T + classifier.output.bias
    torch.testing.assert_close(classifier(f1, "rgb").mlp, expected)


def raw_rgb(batch=4):
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_model_answers_with_the_deployed_head(head):
    torch.manual_seed(0)
    config = ModelConfig(input_size=32, ndf=4, nrkhs=8, depth=1, dropout=0.0, predict_with=head)
    model = RecognitionModel(config, BOTH, 3)
    logits, f1 = model(raw_rgb(), "rgb")
    assert logits.shape == (4, 3)
    torch.testing.assert_close(logits, getattr(model.classifier(f1, "rgb"), head))
    torch.testing.assert_close(f1, model.features(raw_rgb(), "rgb").f1)


def test_settings_are_read_off_the_weights():
    config = ModelConfig(input_size=64, ndf=4, nrkhs=12, depth=3, unit_norm=True)
    state = RecognitionModel(config, BOTH, 3, feature_heads=False).state_dict()
    assert encoder_settings(state) == {"input_size": 64, "ndf": 4, "nrkhs": 12, "depth": 3, "unit_norm": True}
    with pytest.raises(CheckpointError, match="no complete encoder"):
        encoder_settings({key: value for key, value in state.items() if "stem" not in key})


def test_transfer_from_a_weights_file(tmp_path):
    config = ModelConfig(input_size=32, ndf=4, nrkhs=8, depth=1)
    source = RecognitionModel(config, BOTH, 3, feature_heads=[7])
    source(raw_rgb(), "rgb")
    save_weights(tmp_path / "weights.safetensors", source, {"classes": ["a", "b", "c"]})
    target = RecognitionModel(config, ("rgb", "rgb_right"), 5, feature_heads=[5, 7])
    fresh = {key: value.clone() for key, value in target.state_dict().items()}
    taken = target.init_from(tmp_path / "weights.safetensors")
    for key, value in target.state_dict().items():
        new = key.startswith("classifier") or "heads.5" in key or "statistics.rgb_right" in key
        assert (key in taken) != new, key
        assert torch.equal(value, fresh[key] if new else source.state_dict()[key]), key
    with pytest.raises(CheckpointError, match=r"made with model.ndf=4; this model has model.ndf=8"):
        RecognitionModel(ModelConfig(input_size=32, ndf=8, nrkhs=8, depth=1), BOTH, 3).init_from(tmp_path)


@pytest.mark.parametrize("content", [b"admd:\n  alone_epochs: 59\n", b"M", b"h\x96", b"# text\n", b""])
def test_what_is_no_checkpoint_to_start_from_is_named(tmp_path, content):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"settings\.yaml (is not|cannot be read as) a checkpoint"):
        RecognitionModel(ModelConfig(input_size=32, ndf=4, nrkhs=8, depth=1), BOTH, 3).init_from(path)


def test_the_authors_encoder_for_32_px_is_refused(tmp_path):
    """All its weights but those of the unit after the first convolution have a place in ours."""
    config = ModelConfig(input_size=32, ndf=4, nrkhs=24, depth=1)
    places = {
        "stem.0.": "0.conv.", "to7.0.": "2.layer_list.", "to7.1.": "3.layer_list.", "to5.": "5.layer_list.",
        "to3.": "6.layer_list.", "to1.": "7.",
    }  # fmt: skip
    model = RecognitionModel(config, BOTH, 3, feature_heads=False)
    ours = {key.removeprefix("encoder."): value for key, value in model.encoder.state_dict().items()}
    state = {
        f"encoder.module.layer_list.{theirs}{key.removeprefix(prefix)}": value
        for prefix, theirs in places.items()
        for key, value in ours.items()
        if key.startswith(prefix)
    }
    bias = torch.zeros(24)
    state |= {f"encoder.module.layer_list.8.bn.{name}": bias for name in ("weight", "bias", "running_mean")}
    torch.save(state, tmp_path / "without.pth")
    assert len(load_authors_state(tmp_path / "without.pth")) == len(state) + 1
    unit = {f"encoder.module.layer_list.1.conv{n}.weight": torch.zeros(4, 4, 1, 1) for n in (1, 2)}
    torch.save(unit | state, tmp_path / "authors.pth")
    with pytest.raises(CheckpointError, match=r"authors' encoder for 32 px.*those for 64 and 128 px can be read"):
        model.init_from(tmp_path / "authors.pth")


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("names", [("rgb", "depth"), ("depth", "depth"), ("rgb", "depth", "rgb")])
def test_batches_that_pass_together_are_as_alone(names, unit_norm):
    """Embeddings, gradients and running statistics of several batches: in one pass of the encoder, and one by one."""
    found = []
    for together in (True, False):
        torch.manual_seed(2)
        config = ModelConfig(input_size=32, ndf=4, nrkhs=24, depth=2, unit_norm=unit_norm, depth_encoding="replicate")
        model = RecognitionModel(config, BOTH, 3)
        model.encoder = small_encoder(unit_norm=unit_norm)
        raw = [
            (60 * torch.rand(6, 1 if name == "depth" else 3, 32, 32) * 10**n, name, None)
            for n, name in enumerate(names)
        ]
        features = model.features_together(raw) if together else [model.features(*one) for one in raw]
        embedded = torch.cat([f.flatten() for part in features for f in part])
        (embedded * torch.linspace(-1, 1, len(embedded))).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.encoder.parameters()])
        found.append((embedded.detach(), gradient, *model.encoder.state_dict().values()))
    for one, other in zip(*found, strict=True):  # single gradients cancel to rounding
        assert (one - other).double().norm() <= 1e-4 * other.double().norm()


def test_an_untrained_modality_among_several_is_named():
    model = RecognitionModel(ModelConfig(input_size=32, ndf=4, nrkhs=24, depth=2), BOTH, 3)
    model.features(255 * torch.rand(4, 3, 32, 32), "rgb")
    with pytest.raises(UntrainedModalityError, match="'depth'"):
        model.eval().encoder(torch.rand(4, 3, 32, 32), ("rgb", "depth"))
