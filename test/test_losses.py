"""The losses against loops over single scores, and what the fast formulation must not allocate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmcl_core.engine import plain
from mmcl_core.errors import ConfigError
from mmcl_core.nn.encoder import Features
from mmcl_core.nn.losses import LEVEL_PAIRS, CrossModalNCE, classification_loss, draw_cells

ALL_PAIRS = tuple(LEVEL_PAIRS)


@pytest.fixture(autouse=True, params=["one by one", "together"])
def grouping(request, monkeypatch):
    """Every test with the directions one after the other, as on a processor, and all at once, as on a GPU."""
    one_by_one = CrossModalNCE._groups

    def groups(self, directions, present):
        return [directions] if len(present) <= self.chunk else one_by_one(self, directions, present)

    if request.param == "together":
        monkeypatch.setattr(CrossModalNCE, "_groups", groups)
    return request.param


def embeddings(views=("rgb", "depth"), batch=5, width=6, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (scale * torch.randn(batch, width, *shape, generator=generator)).requires_grad_()

    features = {view: Features(draw(), draw(5, 5), draw(7, 7)) for view in views}
    return features, draw_cells(batch, views, generator)


def leaves(features):
    return [f for view in features.values() for f in view]


def term_by_loops(pair, source, target, features, cells, valid, clip, labels=None):
    """Mean loss and mean squared score of one direction, one score at a time."""
    at, to = LEVEL_PAIRS[pair]
    maps = [{1: f.f1[:, :, None, None], 5: f.f5, 7: f.f7} for f in (features[source], features[target])]
    sources, targets = maps[0][at].detach().double(), maps[1][to].detach().double()
    batch, width = sources.shape[:2]
    losses, squares = [], []
    for i in range(batch):
        if not (valid[source][i] and valid[target][i]):
            continue
        cell = int(cells[source][i]) if at > 1 else 0
        s = sources[i, :, cell // at, cell % at]
        scores = {}
        for j, row, column in itertools.product(range(batch), range(to), range(to)):
            if valid[target][j]:
                score = float(s @ targets[j, :, row, column]) / math.sqrt(width)
                squares.append(score**2)
                scores[j, row, column] = clip * math.tanh(score / clip) if clip else score
        same = {j for j in range(batch) if labels is not None and labels[j] == labels[i] >= 0}
        negative = sum(math.exp(v) for (j, _, _), v in scores.items() if j != i and j not in same)
        losses += [math.log(math.exp(v) + negative) - v for (j, _, _), v in scores.items() if j == i]
    return sum(losses) / max(len(losses), 1), sum(squares) / max(len(squares), 1)


VALID = {
    "rgb": torch.tensor([1, 1, 0, 1, 1]).bool(),
    "depth": torch.tensor([1, 0, 1, 1, 1]).bool(),
    "rgb_right": torch.tensor([1, 1, 1, 0, 1]).bool(),
}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("views", [("rgb", "depth"), ("rgb", "depth", "rgb_right")])
@pytest.mark.parametrize("clip", [0.0, 4.0])
def test_terms_equal_loops_over_scores(views, clip, missing):
    features, cells = embeddings(views)
    valid = {view: VALID[view] if missing else torch.ones(5, dtype=torch.bool) for view in views}
    arguments = {"clip": clip, "regulariser": 0.05, "direction_weight": 0.5}
    terms = CrossModalNCE(ALL_PAIRS, **arguments)(features, cells, valid if missing else None)
    slow = plain.contrast(features, cells, ALL_PAIRS, **arguments, valid=valid if missing else None)
    terms, slow = ({name: value.item() for name, value in each.items()} for each in (terms, slow))
    assert list(terms) == list(slow)
    assert len(terms) == len(ALL_PAIRS) * len(views) * (len(views) - 1) + 1
    squares = 0.0
    for pair, (source, target) in itertools.product(ALL_PAIRS, itertools.permutations(views, 2)):
        loss, square = term_by_loops(pair, source, target, features, cells, valid, clip)
        squares += square
        name = f"{pair} {source}->{target}"
        assert terms[name] == pytest.approx(0.5 * loss, rel=1e-5)
        assert slow[name] == pytest.approx(0.5 * loss, rel=1e-5)
    assert terms["regulariser"] == pytest.approx(0.5 * 0.05 * squares, rel=1e-5)
    assert slow["regulariser"] == pytest.approx(0.5 * 0.05 * squares, rel=1e-5)


LABELS = torch.tensor([1, -1, 1, -1, 0])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("chunk", [2, 100])
def test_samples_of_the_same_known_class_are_no_negatives(chunk, missing):
    """Against the loops; the two unknown samples are negatives to all, each other included."""
    features, cells = embeddings()
    valid = {view: VALID[view] if missing else torch.ones(5, dtype=torch.bool) for view in features}
    loss = CrossModalNCE(ALL_PAIRS, clip=4.0, chunk=chunk, drop_same_class=True)
    terms = loss(features, cells, valid if missing else None, LABELS)
    slow = plain.contrast(features, cells, ALL_PAIRS, clip=4.0, valid=valid if missing else None, labels=LABELS)
    torch.testing.assert_close(terms, slow, rtol=1e-5, atol=1e-6)
    squares = 0.0
    for pair, (source, target) in itertools.product(ALL_PAIRS, itertools.permutations(features, 2)):
        expected, square = term_by_loops(pair, source, target, features, cells, valid, 4.0, LABELS.tolist())
        squares += square
        assert terms[f"{pair} {source}->{target}"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["regulariser"].item() == pytest.approx(0.05 * squares, rel=1e-5)
    every = CrossModalNCE(ALL_PAIRS, clip=4.0)(features, cells, valid if missing else None, LABELS)
    assert missing or all(terms[name] < every[name] for name in terms if "->" in name)
    grads = [torch.autograd.grad(sum(each.values()), leaves(features)) for each in (terms, slow)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_without_known_classes_every_other_sample_is_a_negative():
    features, cells = embeddings()
    unknown = torch.full((5,), -1)
    terms = CrossModalNCE(ALL_PAIRS, drop_same_class=True)(features, cells, labels=unknown)
    assert terms == CrossModalNCE(ALL_PAIRS)(features, cells)


@pytest.mark.parametrize("scale", [3.0, 300.0])
@pytest.mark.parametrize("labels", [[0] * 5, [0, 0, 0, 0, 1]])
def test_a_source_without_negatives_adds_nothing(labels, scale):
    features, cells = embeddings(scale=scale)
    loss = CrossModalNCE(ALL_PAIRS, regulariser=0.0, clip=0.0, drop_same_class=True)
    valid = {view: torch.arange(5) < 4 for view in features}  # the one of another class is not there
    terms = loss(features, cells, valid, torch.tensor(labels))
    assert all(value.item() == 0 for value in terms.values())
    for gradient in torch.autograd.grad(sum(terms.values()), leaves(features)):
        assert not gradient.any()  # NaN is true
    if labels[4]:
        terms = loss(features, cells, None, torch.tensor(labels))
        assert all(g.isfinite().all() for g in torch.autograd.grad(sum(terms.values()), leaves(features)))
        assert all(value.isfinite() and value > 0 for name, value in terms.items() if "->" in name)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_gradients_equal_the_plain_formulation_in_chunks_of_any_size(chunk, missing):
    features, cells = embeddings()
    valid = VALID if missing else None
    fast = CrossModalNCE(ALL_PAIRS, chunk=chunk)(features, cells, valid)
    slow = plain.contrast(features, cells, ALL_PAIRS, valid=valid)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(sum(terms.values()), leaves(features)) for terms in (fast, slow)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_missing_sample_has_no_influence():
    features, cells = embeddings()
    loss = CrossModalNCE(ALL_PAIRS)
    terms = loss(features, cells, VALID)
    for gradient in torch.autograd.grad(sum(terms.values()), features["rgb"]):
        assert not gradient[2].any()
        assert gradient[1].any()  # lacks depth only: still a negative among the RGB targets
    with torch.no_grad():
        for feature in features["rgb"]:
            feature[2] = 1e4
    torch.testing.assert_close(loss(features, cells, VALID), terms)


@pytest.mark.parametrize("kept", [0, 1])
def test_without_negatives_the_terms_are_zero_and_connected(kept):
    features, cells = embeddings()
    valid = {view: torch.arange(5) < kept for view in features}
    terms = CrossModalNCE(ALL_PAIRS)(features, cells, valid)
    assert all(value.item() == 0 for name, value in terms.items() if name != "regulariser")
    for gradient in torch.autograd.grad(sum(terms.values()), leaves(features)):
        assert gradient.isfinite().all()
    single, cells = embeddings(batch=1)
    assert CrossModalNCE(("1-5",), regulariser=0.0)(single, cells)["1-5 rgb->depth"] == 0


def test_large_scores_stay_finite():
    features, cells = embeddings(scale=300.0)
    for clip in (0.0, 20.0):
        terms = CrossModalNCE(ALL_PAIRS, clip=clip)(features, cells)
        assert all(value.isfinite() for value in terms.values())
        assert all(g.isfinite().all() for g in torch.autograd.grad(sum(terms.values()), leaves(features)))


def test_float32_under_autocast():
    features, cells = embeddings(width=64)
    half = {view: Features(*(f.detach().bfloat16() for f in maps)) for view, maps in features.items()}
    exact = CrossModalNCE(ALL_PAIRS)({v: Features(*(f.float() for f in maps)) for v, maps in half.items()}, cells)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, -1])
    with torch.autocast("cpu", torch.bfloat16):
        assert CrossModalNCE(ALL_PAIRS)(half, cells) == exact
        assert classification_loss(logits, labels) == classification_loss(logits.float(), labels)


class Allocations(TorchDispatchMode):
    """Counts matrix products of embeddings and keeps the sizes of all truth-value tensors."""

    def __init__(self, width):
        super().__init__()
        self.width, self.products, self.masks = width, 0, [0]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.products += args[0].shape[-1] == self.width
        if isinstance(out, torch.Tensor) and out.dtype in (torch.bool, torch.uint8):
            self.masks.append(out.numel())
        return out


@pytest.mark.parametrize("valid", [None, VALID])
def test_one_product_for_a_group_of_directions_and_no_masks(valid, grouping):
    features, cells = embeddings()
    with Allocations(width=6) as seen:
        CrossModalNCE(("1-7", "5-5", "5-7"))(features, cells, valid)
    assert seen.products == (2 if grouping == "together" else 6)
    assert max(seen.masks) <= 2 * 5  # which samples have which view
    with Allocations(width=6) as seen:
        CrossModalNCE(("1-7", "5-5"), chunk=2, drop_same_class=True)(features, cells, valid, LABELS)
    assert max(seen.masks) <= 2 * 5  # of the samples of a chunk and all others, not of their locations


def saved_bytes(batch, chunk):
    features, cells = embeddings(batch=batch, width=4)
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        terms = CrossModalNCE(("1-7",), chunk=chunk)(features, cells)
    return sum(sizes.values()), terms


def test_memory_grows_with_the_batch_in_chunks():
    small, _ = saved_bytes(32, 8)
    large, _chunked = saved_bytes(128, 8)
    whole, _terms = saved_bytes(128, 128)
    assert large < 6 * small  # four times the samples; the square would be sixteen times
    assert whole > 8 * large


def test_mistakes_are_named():
    features, cells = embeddings()
    with pytest.raises(ConfigError, match=r"'7-1'.*1-5, 1-7"):
        CrossModalNCE(("1-5", "7-1"))
    with pytest.raises(ConfigError, match="no level pair"):
        CrossModalNCE(())
    with pytest.raises(ConfigError, match="chunk"):
        CrossModalNCE(("1-5",), chunk=0)
    with pytest.raises(ConfigError, match="cells"):
        CrossModalNCE(("5-7",))(features)
    with pytest.raises(ConfigError, match="drop_same_class needs the labels"):
        CrossModalNCE(("1-5",), drop_same_class=True)(features, cells)
    with pytest.raises(ConfigError, match="level 7"):
        CrossModalNCE(("1-7",))({view: f._replace(f7=None) for view, f in features.items()}, cells)


def test_drawn_cells_are_uniform_and_seeded():
    cells = draw_cells(5000, ("a", "b"), torch.Generator().manual_seed(3))
    again = draw_cells(5000, ("a", "b"), torch.Generator().manual_seed(3))
    for view in ("a", "b"):
        assert torch.equal(cells[view], again[view])
        counts = torch.bincount(cells[view], minlength=25)
        assert len(counts) == 25
        assert counts.min() > 140
        assert counts.max() < 260
    assert not torch.equal(cells["a"], cells["b"])


def classes(batch=7, number=4):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, -1, 3, 2, -1, 1, 0])[:batch]
    return (15 * torch.randn(batch, number, generator=generator)).requires_grad_(), labels


def test_classification_loss_equals_a_loop_over_labelled_samples():
    logits, labels = classes()
    expected = []
    for row, label in zip(logits.detach().double().tolist(), labels.tolist(), strict=True):
        if label >= 0:
            clipped = [10 * math.tanh(z / 10) for z in row]
            entropy = math.log(sum(map(math.exp, clipped))) - clipped[label]
            expected.append(entropy + 1e-3 * sum(z * z for z in row) / len(row))
    loss = classification_loss(logits, labels)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert plain.classify(logits, labels).item() == pytest.approx(loss.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[labels < 0].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_without_clip_and_regulariser_it_is_cross_entropy(smoothing):
    logits, labels = classes()
    loss = classification_loss(logits, labels, clip=0.0, regulariser=0.0, smoothing=smoothing)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing))


def test_nothing_labelled_is_zero_and_connected():
    logits, labels = classes()
    loss = classification_loss(logits, torch.full_like(labels, -1))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()
