"""Memory: too little of it for all crops of a picture at once, and how much of it pictures that wait may take; no ROS.

How much of it the pictures kept for requests to come may take is tested beside the pairing.
"""

import threading
from types import SimpleNamespace

import pytest
from ros_fakes import LEFT, RIGHT, FakeRecognizer, Robot, ask, colour, depth, exact, item, labels, regions

from mmcl_core.errors import InputError, out_of_memory
from mmcl_ros import batches
from mmcl_ros.backlog import Backlog
from mmcl_ros.batches import Batches
from mmcl_ros.detections import read_request
from mmcl_ros.frames import FrameRecognizer, Result
from mmcl_ros.intake import Job
from mmcl_ros.ledger import Ledger, find_problems
from mmcl_ros.pairing import Pairer
from mmcl_ros.worker import Worker

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
        RuntimeError("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 75000000 bytes"),
    ]


@pytest.mark.parametrize("number", range(5))
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


def job(*pictures):
    """One whose pictures are messages of so many bytes, or given."""
    given = [SimpleNamespace(data=range(one)) if isinstance(one, int) else one for one in pictures]
    return Job(None, None, dict(zip(("rgb", "depth"), given, strict=False)), {}, 0.0)


@pytest.mark.parametrize(("size", "kept"), [(100, 10), (300, 3), (500, 2), (5000, 1)])
def test_no_more_jobs_wait_than_there_is_memory_for_their_pictures(size, kept):
    """However many the queue may have, and though all became complete at once; the newest one always waits."""
    queue = Backlog(1000, bursts=True, memory=1000)
    jobs = [job(size // 2, size // 2) for _ in range(20)]
    assert queue.put(jobs) == 20 - kept
    assert list(queue) == jobs[-kept:]
    assert queue.held == kept * size
    assert "GB of pictures" in queue.why
    assert [queue.take() for _ in range(kept)] == jobs[-kept:]
    assert (len(queue), queue.held) == (0, 0)


def test_more_jobs_than_the_limit_wait_only_until_those_that_came_at_once_are_worked_off():
    queue = Backlog(2, bursts=True)
    assert queue.put([job(1) for _ in range(5)]) == 0
    for _ in range(3):
        queue.take()
    assert [queue.put([job(1)]) for _ in range(3)] == [1, 1, 1]


def test_a_picture_that_several_requests_share_is_weighed_once():
    """As of two detectors, or of a slow sensor beside a fast one."""
    queue, shared = Backlog(1000, memory=1000), SimpleNamespace(data=bytes(600))
    assert queue.put([job(shared)]) + queue.put([job(shared)]) + queue.put([job(300, shared)]) == 0
    assert queue.held == 900
    queue.take()
    queue.take()
    assert queue.held == 900
    queue.take()
    assert queue.held == 0
    queue.put([job(shared)])
    queue.clear()
    assert (len(queue), queue.held) == (0, 0)


def test_why_requests_were_dropped_is_said():
    robot, changed = Robot("rgb", wanted=("rgb",)), threading.Condition()
    robot.collect = lambda: None  # left to the worker
    worker = Worker(robot.intake, changed, None, None, every=True, queue=9, running=lambda: True)
    worker._jobs = Backlog(9, bursts=True, memory=3 << 28)
    robot.intake.jobs = lambda now: [job(1 << 28)]
    for _ in range(4):
        worker._collect(0.0)
    assert (len(worker._jobs), worker._overtaken) == (3, 1)
    words = find_problems(robot.intake, {}, 1, full=worker.full)["queue full"]
    assert words == (
        "1 request dropped since the last report: the queue holds 0.75 GB of pictures, the most there may be, "
        "recognition is slower than the data"
    )


def held(pairer):
    """Bytes of all pictures that a pairer refers to."""
    streams = pairer._streams.values()
    items = [item for stream in streams for item in (*stream.items, *stream.past)]
    items += [item for _, item in pairer._pending]
    return sum({id(item): item.size for item in items}.values())


def test_a_request_that_could_not_wait_for_lack_of_room_is_due_at_once():
    made = Pairer(0.02, 5.0, capacity=2)
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    for n in range(3):
        made.add("rgb", item(100 * n))
    assert made.deadline() < 0.2
    assert [group.hurried for group in made.ready(0.2)] == [True]
    assert made.deadline() == 0.1 + 5.0


@pytest.mark.parametrize("jumps", [False, True])
def test_pictures_that_wait_for_the_other_sensor_are_bounded_and_answered_without_it(jumps):
    """Depth is expected and does not come; 40 pictures come in the time they would wait, 10 fit in the memory."""
    made, given = Pairer(0.02, 5.0, history=5.0, memory=1000), []
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    stamps = [n * 50 if n < 20 or not jumps else n * 50 - 100_000 for n in range(2000, 2040)]
    for n, stamp in enumerate(stamps):
        made.add("rgb", item(stamp, received=n * 0.05, size=100))
        given += made.ready(n * 0.05)
        assert held(made) <= (1000 if n < 20 or not jumps else 2000)
    assert [group.anchor.stamp // 1_000_000 for group in given] == stamps[: len(given)], "in order, none lost"
    assert len(given) >= 20
    assert all(group.hurried and not group.partners for group in given)
    assert (made.counters.hurried, made.counters.lonely) == (len(given), 0)
    rest = made.ready(99.0)
    assert [group.hurried for group in rest] == [False] * (40 - len(given))
    assert made.counters.lonely == len(rest)


@pytest.mark.parametrize("lag", [0.1, 0.3])
def test_a_recording_that_begins_anew_loses_no_pair_where_there_is_room_for_those_that_wait(lag):
    """30 Hz, played twice, depth comes later by ``lag``; the room for 40 pictures is full all the time."""
    made, given = Pairer(0.02, 5.0, history=5.0, memory=4000), []
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    frames = [(1000 * (n % 60) / 30 + 10_000, n / 30) for n in range(120)]
    arrivals = [("rgb", stamp, at) for stamp, at in frames] + [("depth", stamp, at + lag) for stamp, at in frames]
    for stream, stamp, at in sorted(arrivals, key=lambda one: one[2]):
        made.add(stream, item(stamp, received=at, size=100))
        given += made.ready(at)
    given += made.ready(99.0)
    assert len(given) == 120
    assert [group.anchor.stamp for group in given] == [int(stamp * 1e6) for stamp, _ in frames]
    assert all("depth" in group.partners for group in given)


def test_a_picture_larger_than_all_the_room_is_kept_until_the_next():
    made = Pairer(0.02, 0.1, memory=1000)
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    for stamp in (100, 133):
        made.add("depth", item(stamp, size=5000))
        made.add("rgb", item(stamp, size=10))
        (group,) = made.ready(stamp / 1e3)
        assert group.partners["depth"].stamp == group.anchor.stamp
        assert held(made) < 6000


def test_what_was_about_to_be_given_out_is_dropped_with_all_else():
    """A node that is stopped and started again answers nothing of before."""
    made = Pairer(0.02, 5.0, memory=1000)
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    for n in range(12):
        made.add("rgb", item(1000 + n * 50, size=100))
    assert made.counters.hurried, "two had to go without waiting, and nobody has taken them yet"
    made.clear()
    assert not made.waiting
    assert made.ready(99.0) == []


def test_clocks_that_differ_are_found_where_there_is_no_room_to_wait():
    made, given = Pairer(0.02, 5.0, history=5.0, memory=4000), []
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    for n in range(300):
        made.add("depth", item(n * 33, received=n / 30, size=100))
        made.add("rgb", item(n * 33 + 3_600_000, received=n / 30, size=100))
        given += made.ready(n / 30)
    assert made.counters.hurried > 200
    assert made.counters.lonely > 200
    assert made.counters.gaps["depth"] == pytest.approx(3600, abs=60)


def test_regions_that_wait_are_answered_before_their_picture_is_let_go_of():
    robot = Robot("rgbd", roi_source="detections")
    pairer = robot.intake.pairer
    pairer.wait = pairer.history = 5.0
    pairer.memory = 5 * 4 * 4 * 3  # five of its pictures
    robot.detect()
    robot.send("rgb")
    found = robot.run(0.4, "rgb", rate=20)
    assert found == [("rgb",)]
    assert robot.jobs[0].header.stamp.sec == 100
    words = robot.intake.events["no time to wait"]
    assert words.startswith("1 request so far could not wait for what belongs to them: of the pictures no more than")
    robot.detect()
    robot.send("depth")
    robot.send("rgb")
    assert list(robot.jobs[-1].pictures) == ["rgb", "depth"]
    assert pairer.counters.hurried == 1, "one that found all it wants did not hurry"


def test_no_picture_waits_for_a_thread_that_has_ended():
    """By a defect; the node says so, and must not take more memory with every picture."""
    robot, changed = Robot("rgb", wanted=("rgb",)), threading.Condition()
    robot.collect = lambda: None  # left to the worker
    worker = Worker(robot.intake, changed, None, None, every=True, queue=9, running=lambda: True)
    robot.intake.jobs = lambda now: 1 / 0
    worker.start()
    worker.join(10)
    assert worker.failure
    for _ in range(5):
        robot.send("rgb")
        worker.wake()
        assert held(robot.intake.pairer) == 0
