"""The pix2pix generator and the discriminators: shapes, what reaches what, and their losses by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmcl_core.errors import ConfigError, InputError, UntrainedModalityError
from mmcl_core.nn.discriminator import (
    EmbeddingDiscriminator,
    PatchDiscriminator,
    class_or_fake_loss,
    l1_loss,
    patch_loss,
)
from mmcl_core.nn.generator import Generator


def pictures(batch, size, seed=0):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "levels", "dropped"), [(32, 5, 1), (64, 6, 2), (128, 7, 3), (256, 8, 3)])
def test_generator_goes_down_to_one_pixel(size, levels, dropped):
    generator = Generator(size, "rgb", width=2)
    assert (len(generator.down), generator.dropped) == (levels, dropped)
    sides = []
    for convolution in generator.down:
        convolution.register_forward_hook(lambda module, given, out: sides.append(out.shape[2]))
    assert generator(pictures(2, size)).shape == (2, 3, size, size)
    assert sides[-1] == 1
    with pytest.raises(InputError, match=str(size)):
        generator(pictures(2, size // 2))


@pytest.mark.parametrize(("size", "sides"), [(32, [2]), (64, [2, 4]), (128, [2, 4, 8])])
def test_the_innermost_levels_of_the_decoder_drop_out(size, sides, monkeypatch):
    generator = Generator(size, "rgb", width=2)
    seen, dropout = [], F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, *rest: seen.append((x.shape[2], *rest)) or dropout(x, *rest))
    generator(pictures(2, size))
    generator.eval()(pictures(2, size))
    assert seen == [(side, 0.5, training) for training in (True, False) for side in sides]


def test_generator_of_the_publication():
    """Weights of the U-Net of 256 pixels and width 64, counted by hand from the publication's list of layers."""
    down = [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    up = [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    convolutions = sum(16 * a * b for a, b in down + up)
    biases = 64 + 512 + 3  # where no BatchNorm follows
    norms = 2 * (128 + 256 + 512 * 4 + 512 * 4 + 256 + 128 + 64)
    assert sum(p.numel() for p in Generator(256, "rgb").parameters()) == convolutions + biases + norms


def normalised(norms, level, x):
    name = str(level)
    return F.batch_norm(x, None, None, norms[name].weight, norms[name].bias, True) if name in norms else x


def test_generator_layer_by_layer():
    """Leaky ReLUs on the way down, plain ones on the way up; what is joined is normalised and not rectified."""
    generator = Generator(32, "rgb", width=2, dropout=0.0)
    x = pictures(3, 32)
    maps = []
    for level, layer in enumerate(generator.down):
        given = F.leaky_relu(maps[-1], 0.2) if maps else x
        given = F.conv2d(given, layer.weight, layer.bias, stride=2, padding=1)
        maps.append(normalised(generator.down_norm, level, given))
    made = maps.pop()
    for level in (4, 3, 2, 1, 0):
        layer = generator.up[level]
        made = F.conv_transpose2d(F.relu(made), layer.weight, layer.bias, stride=2, padding=1)
        made = normalised(generator.up_norm, level, made)
        made = torch.cat((made, maps.pop()), 1) if maps else made
    torch.testing.assert_close(generator(x), made)


def test_patch_discriminator_layer_by_layer():
    discriminator = PatchDiscriminator(64, width=2)
    source, target = pictures(3, 64), pictures(3, 64, seed=1)
    x = torch.cat((source, target), 1)
    last = len(discriminator.convolutions) - 1
    for level, layer in enumerate(discriminator.convolutions):
        x = F.conv2d(x, layer.weight, layer.bias, stride=2 if level < last - 1 else 1, padding=1)
        if 0 < level < last:
            x = normalised(discriminator.norms, level, x)
        x = F.leaky_relu(x, 0.2) if level < last else x
    assert (x < 0).any()
    torch.testing.assert_close(discriminator(source, target), x)


def test_generator_initialisation_and_range():
    torch.manual_seed(0)
    generator = Generator(32, "rgb", width=16)
    weights = torch.cat([layer.weight.flatten() for layer in (*generator.down, *generator.up)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    with torch.no_grad():  # nothing bounds the answer
        generator.up[0].bias.fill_(7.0)
    assert generator(pictures(4, 32)).max() > 5


def test_generator_answers_alike_in_evaluation_only():
    generator = Generator(32, "rgb", width=8)
    with pytest.raises(UntrainedModalityError):
        generator.eval()(pictures(1, 32))
    x = pictures(4, 32)
    generator.train()
    assert not torch.equal(generator(x), generator(x))
    generator.eval()
    assert torch.equal(generator(x), generator(x))
    assert torch.allclose(generator(x)[:1], generator(x[:1]), atol=1e-6)


def test_every_skip_connection_carries():
    """With what comes from below a level cut off, what was seen on the way down arrives by its skip connection."""
    generator = Generator(32, "rgb", width=4, dropout=0.0)
    for level in range(1, len(generator.down)):
        generator.zero_grad(set_to_none=True)
        cut = generator.up[level].register_forward_hook(lambda module, given, out: torch.zeros_like(out))
        generator(pictures(4, 32)).square().sum().backward()
        cut.remove()
        assert generator.down[level - 1].weight.grad.abs().max() > 0
        assert generator.down[level].weight.grad is None


@pytest.mark.parametrize(("size", "side"), [(32, 16), (64, 34), (128, 70), (256, 70)])
def test_patch(size, side):
    """An output depends on as many pixels as it says: measured by gradients, with BatchNorm in evaluation."""
    discriminator = PatchDiscriminator(size, width=2)
    a, b = pictures(2, size), pictures(2, size, 1).requires_grad_()
    out = discriminator(a, b)
    assert out.shape == ((2, 1, 14, 14) if size < 256 else (2, 1, 30, 30))
    discriminator.eval()
    middle = out.shape[2] // 2
    discriminator(a, b)[0, 0, middle, middle].backward()
    rows = b.grad[0].abs().sum((0, 2)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == side == discriminator.patch
    assert b.grad[1].eq(0).all()


def test_patch_discriminator_of_the_publication():
    """Weights of the 70 x 70 discriminator of width 64, counted by hand: BatchNorm after all but the first and last."""
    layers = [(6, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    convolutions = sum(16 * a * b for a, b in layers)
    biases, norms = 64 + 1, 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in PatchDiscriminator(256).parameters()) == convolutions + biases + norms


def test_impossible_sizes_are_refused():
    for make in (lambda: Generator(48, "rgb"), lambda: Generator(8, "rgb"), lambda: PatchDiscriminator(16)):
        with pytest.raises(ConfigError, match="side"):
            make()


def test_patch_discriminator_looks_at_both_pictures():
    discriminator = PatchDiscriminator(32, width=4)
    a, b = pictures(4, 32), pictures(4, 32, 1)
    assert not torch.allclose(discriminator(a, b), discriminator(a.flip(0), b))
    assert not torch.allclose(discriminator(a, b), discriminator(a, b.flip(0)))


def test_losses_by_hand():
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).view(2, 1, 1, 2)
    one, zero = torch.ones_like(logits), torch.zeros_like(logits)
    assert patch_loss(logits, True).item() == pytest.approx(F.binary_cross_entropy_with_logits(logits, one).item())
    assert patch_loss(logits, False).item() == pytest.approx(F.binary_cross_entropy_with_logits(logits, zero).item())
    a, b = pictures(3, 8), pictures(3, 8, 1)
    assert l1_loss(a, b).item() == pytest.approx(F.l1_loss(a, b).item())
    empty = torch.zeros(0, 1, 2, 2, requires_grad=True)
    assert patch_loss(empty, True).item() == 0


def test_class_or_fake_loss_by_hand():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))  # 3 classes and "fake"
    p = logits.softmax(1)
    found = class_or_fake_loss(logits, torch.tensor([0, 2, 3, -1])).item()
    expected = -(p[0, 0].log() + p[1, 2].log() + p[2, 3].log() + (1 - p[3, 3]).log()) / 4
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_embedding_discriminator_learns_classes_and_fakes():
    """Real embeddings of three classes and fakes between them are told apart; the layers are residual."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    discriminator = EmbeddingDiscriminator(6, 3, hidden=16)
    assert [tuple(p.shape) for p in discriminator.parameters() if p.ndim == 2] == [
        (16, 6), (16, 16), (16, 16), (32, 16), (48, 32), (4, 48),
    ]  # fmt: skip
    centres = 3 * torch.eye(3, 6)
    labels = torch.arange(90) % 3
    real = centres[labels] + 0.3 * torch.randn(90, 6, generator=g)
    fake = 0.3 * torch.randn(90, 6, generator=g)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    for _ in range(60):
        loss = class_or_fake_loss(discriminator(real), labels)
        loss = loss + class_or_fake_loss(discriminator(fake), torch.full_like(labels, 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert discriminator(real).argmax(1).eq(labels).all()
    assert discriminator(fake).argmax(1).eq(3).all()
    x = F.relu(discriminator.first(real))
    for layer in discriminator.residual:
        x = F.relu(x + layer(x))
    for layer in discriminator.wide:
        x = F.relu(layer(x))
    assert torch.allclose(discriminator(real), discriminator.output(x))
    x = F.relu(discriminator.first(real))
    with torch.no_grad():
        for layer in discriminator.residual:
            layer.weight.zero_()
            layer.bias.zero_()
    for layer in discriminator.wide:
        x = F.relu(layer(x))
    assert torch.allclose(discriminator(real), discriminator.output(x))
