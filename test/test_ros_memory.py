"""Where there is not enough memory for all crops of a picture at once; no ROS needed."""

import pytest
from ros_fakes import LEFT, RIGHT, FakeRecognizer, ask, colour, depth, exact, labels, regions

from mmcl_core.errors import InputError
from mmcl_ros import batches
from mmcl_ros.batches import Batches, out_of_memory
from mmcl_ros.detections import read_request
from mmcl_ros.frames import FrameRecognizer, Result
from mmcl_ros.ledger import Ledger

BOXES = [LEFT, RIGHT, RIGHT, LEFT, RIGHT]
BRIGHTNESS = ["dark", "bright", "bright", "dark", "bright"]


class Small(FakeRecognizer):
    """Has memory for so many crops at once, and none for those of a kind."""

    def __init__(self, most, error=None, refuses=lambda crop: False):
        super().__init__()
        self.most, self.error, self.refuses = most, error or RuntimeError("CUDA error: out of memory"), refuses
        self.sizes = []

    def recognize(self, rgb=None, depth=None, **rest):
        crops = rgb or depth
        self.sizes.append(len(crops))
        if len(crops) > self.most or any(map(self.refuses, crops)):
            raise self.error
        return super().recognize(rgb=rgb, depth=depth, **rest)


def errors():
    torch = pytest.importorskip("torch")
    return [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("most", [1, 2, 4])
def test_crops_that_are_too_many_at_once_are_recognised_by_halves(number, most):
    model = Small(most, errors()[number])
    result = ask(BOXES, rgb=colour(), depth=depth(), recognizer=model)
    assert labels(result) == BRIGHTNESS
    assert {answer.result for answer in result.answers} == {Result.ACCEPTED}
    assert {answer.modality for answer in result.answers} == {"rgbd"}
    assert model.sizes == {1: [5, 3, 2, 1, 1, 1, 1, 1], 2: [5, 3, 2, 1, 2], 4: [5, 3, 2]}[most]


def test_only_the_crop_that_fails_alone_fails():
    model = Small(9, refuses=lambda crop: crop.mean() > 100)
    result = ask([LEFT, LEFT, RIGHT, LEFT], rgb=colour(), recognizer=model)
    assert [answer.result.name for answer in result.answers] == ["ACCEPTED", "ACCEPTED", "FAILED", "ACCEPTED"]
    assert result.answers[2].reason == "inference failed: RuntimeError: CUDA error: out of memory"
    assert "a single crop" in result.notes["out of memory"]


def test_what_was_enough_is_kept_to_for_a_while_and_then_all_are_tried_again(monkeypatch):
    """Every failure costs time, and what takes the memory may end."""
    model = Small(2)
    answerer = FrameRecognizer(model, exact())
    clock = [0.0]
    monkeypatch.setattr(batches.time, "monotonic", lambda: clock[0])

    def sizes():
        del model.sizes[:]
        result = answerer(read_request(regions(BOXES)), {"rgb": colour()})
        assert labels(result) == BRIGHTNESS
        return model.sizes, "out of memory" in result.notes

    assert sizes() == ([5, 3, 2, 1, 2], True)
    clock[0] = batches.AGAIN_S - 1
    assert sizes() == ([2, 2, 1], False), "said once"
    clock[0], model.most = batches.AGAIN_S, 9
    assert sizes() == ([5], False)


def test_what_happened_and_what_to_do_is_said():
    ledger = Ledger()
    ledger.account(ask(BOXES, rgb=colour(), recognizer=Small(3)), {}, {}, 0.0)
    words = ledger.take_events()["out of memory"]
    assert words.startswith("out of memory on cpu with 5 crops at once; for 5 minutes no more than 3 are tried at once")
    assert "smaller model" in words
    assert (ledger.processed, ledger.failed) == (1, 0)


def test_other_errors_are_no_want_of_memory():
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not out_of_memory(InputError("the crop shows 'out of memory'"))
    model = Small(1, RuntimeError("no kernel image"))
    assert {answer.result for answer in ask(BOXES, rgb=colour(), recognizer=model).answers} == {Result.FAILED}
    assert model.sizes == [5]


def test_crops_that_come_one_by_one_are_still_single():
    sizes = Batches()
    assert sizes.shrink(MemoryError(), 1, "cpu").startswith("out of memory on cpu with a single crop: ")
    assert list(sizes.parts("abc")) == ["a", "b", "c"]
    assert list(Batches().parts("abc")) == ["abc"]
    assert list(Batches().parts("")) == []
