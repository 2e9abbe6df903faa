"""What a job is made of, and when it came; what has no stamp, and what an interruption leaves. No ROS needed."""

import pytest
from ros_fakes import Robot

from mmcl_ros.detections import stamp_of
from mmcl_ros.health import State


@pytest.mark.parametrize("first", ["rgb", "depth"])
def test_an_answer_has_the_header_of_what_was_asked(first):
    """Colour, where no regions are; not that of its partner, whose stamp is another."""
    robot = Robot("rgbd")
    robot.run(0.5, "rgb", "depth")
    robot.now += 0.05
    stamps = {"rgb": round(robot.now * 1e9), "depth": round(robot.now * 1e9) + 5_000_000}
    for name in sorted(stamps, key=lambda name: name != first):
        robot.send(name, stamps[name])
    job = robot.jobs[-1]
    assert set(job.pictures) == {"rgb", "depth"}
    assert job.header is job.pictures["rgb"].header
    assert stamp_of(job.header) == stamps["rgb"]


def test_pictures_without_a_stamp_are_paired_by_their_receipt():
    robot = Robot("rgbd")
    robot.now += 0.05
    robot.send("rgb")
    robot.send("depth", stamp=0)
    robot.now += 0.05
    robot.send("depth", stamp=0)
    robot.now += 0.05
    robot.send("rgb")
    robot.now += 0.2
    robot.collect()
    assert [tuple(job.pictures) for job in robot.jobs] == [("rgb", "depth"), ("rgb",)]
    assert [stamp_of(job.header) for job in robot.jobs] == [100_050_000_000, 100_150_000_000]


def test_a_job_has_come_when_its_last_part_has():
    """From then on latencies count: what a picture waits for its partner is not the recognizer's time."""
    robot = Robot("rgbd")
    robot.now, stamp = 100.05, 100_050_000_000
    robot.send("rgb", stamp)
    robot.now = 100.09
    robot.send("depth", stamp)
    assert [job.received for job in robot.jobs] == [100.09]


def test_the_delay_of_a_sensor_is_from_stamp_to_receipt():
    robot = Robot()
    robot.now += 0.05
    robot.send("rgb", stamp=round((robot.now - 0.125) * 1e9))
    robot.send("depth", stamp=0)
    assert robot.intake.health["rgb"].delay() == pytest.approx(0.125)
    assert robot.intake.health["depth"].delay() is None, "without a stamp it is not known"


def test_what_has_come_before_the_work_was_interrupted_is_past():
    """Requests that waited are not answered, sensors have not been lost, and the detector has not been silent."""
    robot = Robot(roi_source="detections")
    robot.intake.detector(True)
    robot.run(6, "rgb", "depth")
    assert robot.intake.silent > 5
    robot.detect(stamp=round((robot.now + 1) * 1e9))
    assert robot.intake.pairer.waiting
    robot.now += 10
    robot.intake.start_over()
    assert set(robot.intake.flows().values()) == {State.SILENT}
    assert robot.run(0.05, "rgb", "depth") == []
    assert set(robot.intake.flows().values()) == {State.ALIVE}
    assert robot.intake.silent < 1
    assert robot.run(0.05, "rgb", "depth", "detections") == [("rgb", "depth")]
