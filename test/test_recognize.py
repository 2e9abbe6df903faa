"""``python -m mmcl_core.recognize``: picture files against the recogniser's own answers."""

from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from small_models import make_crops, save_model

from mmcl_core.recognize import main
from mmcl_core.recognizer import Recognizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(path)
    return path


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rgb, depth = make_crops([(60, 80), (60, 80)], seed=3)
    for name, image in zip("ab", rgb, strict=True):
        cv2.imwrite(f"{name}.png", image[..., ::-1])
    for name, image in zip("ab", depth, strict=True):
        cv2.imwrite(f"{name}_depth.png", image)
    return rgb, depth


def ask(capsys, model, *words, status=0):
    assert main([str(model), *words, "--device", "cpu"]) == status
    said = capsys.readouterr()
    return said.out.splitlines(), said.err


def test_lines_are_the_recognisers_answers(model, pictures, capsys):
    rgb, depth = pictures
    recognizer = Recognizer.load(model, device="cpu")
    tenths = [(image / 10 + 0.5).astype(np.uint16) for image in depth]
    for words, given in (
        (("--rgb", "a.png", "b.png"), {"rgb": rgb}),
        (("--depth", "a_depth.png", "b_depth.png"), {"depth": depth}),
        (("--rgb", "a.png", "b.png", "--depth", "a_depth.png", "b_depth.png"), {"rgb": rgb, "depth": depth}),
        (("--depth", "a_depth.png", "b_depth.png", "--depth-unit", "0.1mm"), {"depth": tenths}),
    ):
        lines, _ = ask(capsys, model, *words, "--top-k", "2")
        found = recognizer.recognize(**given, top_k=2)
        for row, line in enumerate(lines):
            best = [f"{n} {s:.2f}" for n, s in zip(found.top_labels[row], found.top_scores[row], strict=True)]
            assert line == "  ".join([words[1 + row], f"{found.modality[row]:5}", *best])
        assert len(lines) == 2


def test_the_camera_goes_with_the_box(pictures, tmp_path, capsys):
    model = tmp_path / "metric.safetensors"
    save_model(model, depth_encoding="normals", metric_size=True)
    recognizer = Recognizer.load(model, device="cpu")
    words = ("--depth", "a_depth.png", "--box", "20,20,30,20", "--top-k", "3")
    window = pictures[1][0][12:48, 17:53]
    for more, camera in ((("--camera", "70,75,39,31"), (70, 75, 39 - 17, 31 - 12)), ((), None)):
        lines, said = ask(capsys, model, *words, *more)
        found = recognizer.recognize(depth=[window], camera=[camera], top_k=3)
        best = [f"{n} {s:.2f}" for n, s in zip(found.top_labels[0], found.top_scores[0], strict=True)]
        assert lines == ["  ".join(["a_depth.png", "depth", *best])]
        assert ("without --camera" in said) == (camera is None)
        assert "no difference" not in said
    _, said = ask(capsys, model, "--rgb", "a.png", "--camera", "70,75,39,31")
    assert "--camera makes no difference: it is for depth" in said
    _, said = ask(capsys, model, *words, "--camera", "0,1,2,3", status=2)
    assert "--camera '0,1,2,3': four numbers" in said


def test_the_camera_is_that_of_colour_where_depth_is_of_another_size(pictures, tmp_path, capsys, monkeypatch):
    """As for ``prepare``; the recogniser is told that of depth: a pixel of it is two of colour a side."""
    model = tmp_path / "metric.safetensors"
    save_model(model, depth_encoding="normals", metric_size=True)
    cv2.imwrite("half.png", np.ascontiguousarray(pictures[1][0][::2, ::2]))
    told, recognize = [], Recognizer.recognize

    def listening(recognizer, rgb, depth, camera, **more):
        told.extend(camera)
        return recognize(recognizer, rgb, depth, camera, **more)

    monkeypatch.setattr(Recognizer, "recognize", listening)
    (line,), _ = ask(capsys, model, "--rgb", "a.png", "--depth", "half.png", "--camera", "70,75,39,31")
    assert line.split()[1] == "rgbd"
    assert told == [(35, 37.5, 19.25, 15.25)]


def test_a_camera_that_the_model_has_no_use_for_is_told(model, pictures, capsys):
    plain, _ = ask(capsys, model, "--depth", "a_depth.png")
    lines, said = ask(capsys, model, "--depth", "a_depth.png", "--camera", "70,75,39,31")
    assert lines == plain
    assert "--camera makes no difference: this model does not go by the camera" in said


def test_a_wrong_unit_is_asked_about(model, pictures, capsys):
    _, said = ask(capsys, model, "--depth", "a_depth.png", "--depth-unit", "10mm")
    assert "m away and more: is --depth-unit right?" in said
    _, said = ask(capsys, model, "--depth", "a_depth.png", "--depth-unit", "m", status=2)
    assert "has no reading within 65.5 m: is --depth-unit right?" in said


def test_a_box_is_seen_as_the_node_sees_it(model, pictures, capsys):
    """A box of 30 x 20 is seen in 36 x 36 pixels around it, the side that this network's pictures are resized to."""
    rgb, depth = pictures
    recognizer = Recognizer.load(model, device="cpu")
    window = np.s_[12:48, 17:53]
    found = recognizer.recognize(rgb=[rgb[0][window]], depth=[depth[0][window]], top_k=1)
    words = ("--rgb", "a.png", "--depth", "a_depth.png", "--box", "20,20,30,20", "--top-k", "1")
    (line,), _ = ask(capsys, model, *words)
    assert line.endswith(f"rgbd   {found.labels[0]} {found.scores[0]:.2f}")


def test_what_cannot_be_used_is_named_and_the_rest_answered(model, pictures, capsys):
    cv2.imwrite("small.png", np.zeros((30, 40), np.uint16))
    lines, error = ask(capsys, model, "--rgb", "a.png", "gone.png", "b.png")
    assert [line.split()[0] for line in lines] == ["a.png", "b.png"]
    assert error.count("left out: gone.png cannot be read") == 1
    lines, error = ask(capsys, model, "--rgb", "a.png", "b.png", "--depth", "a.png", "b_depth.png")
    assert [line.split()[1] for line in lines] == ["rgb", "rgbd"]
    assert "left out: a.png is 8 bit with 3 channel(s)" in error
    lines, error = ask(
        capsys, model, "--rgb", "a.png", "b.png", "--depth", "small.png", "b_depth.png", "--box", "2,2,9,9"
    )
    assert [line.split()[0] for line in lines] == ["b.png"]
    assert "40 x 30 and 80 x 60 pixels, for a box both have to be of one size" in error
    both = ("--rgb", "a.png", "b.png", "--depth", "small.png", "b_depth.png")
    lines, _ = ask(capsys, model, *both, "--box", "60,40,9,9")
    assert [line.split()[0] for line in lines] == ["b.png"], "the box is in the one and outside of the other"
    for box in ("60,40,0.2,0.2", "-9,-9,9,9"):
        _, error = ask(capsys, model, "--rgb", "b.png", "--box", box, status=2)
        assert "left out: b.png: 80 x 60 pixels, the box shows less than a pixel of them" in error
    lines, _ = ask(capsys, model, "--depth", "small.png")
    assert lines[0].endswith("no_depth")
    cv2.imwrite("metres.png", np.full((60, 80), 2, np.uint16))
    lines, error = ask(capsys, model, "--depth", "a_depth.png", "metres.png")
    assert [line.split()[0] for line in lines] == ["a_depth.png"]
    assert "left out: metres.png has no reading beyond 2 mm: is --depth-unit right?" in error
    cv2.imwrite("wide.png", np.full((60, 120), 900, np.uint16))
    lines, error = ask(capsys, model, "--rgb", "a.png", "b.png", "--depth", "wide.png", "b_depth.png")
    assert [line.split()[0] for line in lines] == ["b.png"]
    assert "left out: a.png, wide.png: of other proportions, no pair: 80 x 60 and 120 x 60" in error


def test_many_pictures_are_answered_some_at_a_time(model, pictures, capsys, monkeypatch):
    words = ("--rgb", "a.png", "b.png", "gone.png", "a.png", "b.png")
    whole, _ = ask(capsys, model, *words)
    monkeypatch.setattr("mmcl_core.recognize.AT_ONCE", 2)
    assert ask(capsys, model, *words)[0] == whole
    assert len(whole) == 4


@pytest.mark.parametrize(("bytes_at_once", "sizes"), [(1, [1, 1, 1, 1]), (80 * 60 * 3 + 1, [2, 2]), (1 << 26, [4])])
def test_large_pictures_are_answered_fewer_at_a_time(model, pictures, capsys, monkeypatch, bytes_at_once, sizes):
    """Sixty-four photographs of a telephone would take gigabytes."""
    words = ("--rgb", "a.png", "b.png", "gone.png", "a.png", "b.png")
    whole, _ = ask(capsys, model, *words)
    monkeypatch.setattr("mmcl_core.recognize.AT_ONCE_BYTES", bytes_at_once)
    seen, recognize = [], Recognizer.recognize

    def counted(recognizer, rgb, *rest, **more):
        seen.append(len(rgb))
        return recognize(recognizer, rgb, *rest, **more)

    monkeypatch.setattr(Recognizer, "recognize", counted)
    assert ask(capsys, model, *words)[0] == whole
    assert seen == sizes


def test_a_lack_of_memory_is_told_with_what_to_do(model, pictures, capsys, monkeypatch):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr("mmcl_core.backend_torch.Deployed.forward", Mock(side_effect=error))
    lines, told = ask(capsys, model, "--rgb", "a.png", status=1)
    assert not lines
    assert told.splitlines()[-1].startswith("error: out of memory: end what else uses it")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no pictures: name colour files with --rgb"),
        (("--rgb", "a.png", "b.png", "--depth", "a_depth.png"), "2 files with --rgb and 1 with --depth"),
        (("--rgb", "a.png", "--box", "1,2,3"), "X,Y,WIDTH,HEIGHT in pixels are expected"),
        (("--rgb", "a.png", "--box", "1,2,3,0"), "X,Y,WIDTH,HEIGHT in pixels are expected"),
        (("--rgb", "a.png", "--box", "nan,2,3,4"), "X,Y,WIDTH,HEIGHT in pixels are expected"),
        (("--rgb", "a.png", "--box", "200,200,9,9"), "none of the pictures can be used"),
        (("--rgb", "a.png", "--box", "81,20,30,20"), "none of the pictures can be used"),
        (("--rgb", "none.png"), "none of the pictures can be used"),
        (("--rgb", "a.png", "--top-k", "0"), "1 or more is expected"),
        (("--depth", "a_depth.png", "--depth-unit", "inch"), "is not understood"),
    ],
)
def test_errors_are_one_line(model, pictures, capsys, words, says):
    lines, error = ask(capsys, model, *words, status=2)
    assert not lines
    assert says in error.splitlines()[-1]
