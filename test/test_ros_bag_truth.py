"""True boxes of recorded bags: how they are written, those without a label, and unknown objects."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import FOUND, column, command, found_message, make_view, run, tiny_model, vision_store
from ros_fakes import CLASSES, FakeRecognizer, header

from mmcl_core.errors import DataError
from mmcl_ros import evaluate_bag
from mmcl_ros.bagfile import Bag, Topics
from mmcl_ros.detections import Box
from mmcl_ros.evaluate_bag import evaluate, main, write
from mmcl_ros.frames import FrameSettings
from mmcl_ros.message_types import DETECTIONS_TYPE, REGIONS_TYPE
from mmcl_ros.truth import read_topic, read_truth


def test_truth_from_detections_with_classes(tmp_path):
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = vision_store()
    image = store.types["sensor_msgs/msg/Image"]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        rgb = writer.add_connection("/cam/rgb", "sensor_msgs/msg/Image", typestore=store)
        boxes = writer.add_connection("/found", FOUND, typestore=store)
        for number in range(3):
            view = make_view(number)
            time = store.types["builtin_interfaces/msg/Time"](5, number * 1000)
            header = store.types["std_msgs/msg/Header"](time, "cam")
            data = view.rgb.reshape(-1)
            message = image(header, 120, 160, "rgb8", 0, 480, data)
            writer.write(rgb, number, store.serialize_cdr(message, "sensor_msgs/msg/Image"))
            found = found_message(store.types, header, view.boxes, view.labels)
            writer.write(boxes, number, store.serialize_cdr(found, FOUND))
    with Bag(tmp_path / "bag") as bag:
        found = evaluate(bag, read_topic(bag), FakeRecognizer(), ["rgb"], FrameSettings(box_scale=0.0))
    assert found["rgb"].figures()["accuracy"] == 1.0
    assert column(found["rgb"], "truth")[:2] == ["dark", "middle"]


def detection(stamp_ns, **what):
    """A message of a detector with one box, what it is said to be in the words of its package."""
    bbox = SimpleNamespace(center=SimpleNamespace(x=5.0, y=5.0, theta=0.0), size_x=4.0, size_y=4.0)
    return SimpleNamespace(header=header(stamp_ns), detections=[SimpleNamespace(bbox=bbox, id="seven", **what)])


def bag_of(*messages, topic="/found", kind=DETECTIONS_TYPE):
    bag = SimpleNamespace(path="my_bag", topics=Topics(detections=topic), kinds={topic: kind})
    bag.messages = lambda topic: ((topic, message) for message in messages)
    bag.sources_of_truth = bag.region_topics = lambda: [topic] if topic else []
    bag.use_detections = lambda topic: setattr(bag.topics, "detections", topic)
    return bag


@pytest.mark.parametrize(
    ("what", "label"),
    [
        ({"class_name": "mug"}, "mug"),  # yolo_msgs
        ({"results": [SimpleNamespace(id="mug", score=0.9), SimpleNamespace(id="cup", score=0.2)]}, "mug"),  # Foxy
        ({"results": []}, ""),
    ],
)
def test_the_class_of_a_detection_is_found_where_its_package_has_it(what, label):
    """Pictures are by stamp, whatever the order of the messages."""
    truths = read_topic(bag_of(detection(7, **what), detection(5, class_name="can")))
    assert [(truth.request.stamp, truth.labels) for truth in truths] == [(5, ("can",)), (7, (label,))]


@pytest.mark.parametrize("kind", [DETECTIONS_TYPE, REGIONS_TYPE])
def test_detections_without_classes_are_no_true_boxes(kind):
    with pytest.raises(
        DataError, match=rf"my_bag: the boxes of /found \({kind}\) carry no classes; give the true boxes"
    ):
        read_topic(bag_of(detection(5, results=[]), kind=kind))
    with pytest.raises(DataError, match=f"my_bag has no {DETECTIONS_TYPE} or yolo_msgs/msg/DetectionArray topic with"):
        read_topic(bag_of(detection(5, results=[]), topic=""))


HEAD = "stamp_ns,x_min,y_min,x_max,y_max,label"


def test_true_boxes_as_spreadsheets_and_people_write_them(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text(f"{HEAD}\n7,0,0,5,5,a mug\n", encoding="utf-8-sig")
    plain = read_truth(table)
    for comma in (", ", " , "):
        table.write_text(f"{HEAD}\n7,0,0,5,5,a mug\n".replace(",", comma))
        assert read_truth(table) == plain
    table.write_text(f"{HEAD}\n7,0,0,5,5,a mug,, \n")  # spreadsheets put empty values at the end
    assert read_truth(table) == plain
    assert [(truth.request.stamp, truth.labels) for truth in plain] == [(7, ("a mug",))]


def test_rows_in_any_order_become_pictures_by_stamp_with_boxes_in_the_order_of_the_file(tmp_path):
    table = tmp_path / "boxes.csv"
    rows = [
        "9,0,0,5,5,cup ,,80,60",
        "7,1,2,3.5,4,mug,left,,",
        "9,2,2,8,8,,,80.0,60.0",
        "7,0,0,9,9,cup,,80,",
    ]  # a width alone is no size
    table.write_text("\n".join([f"{HEAD},id,width,height", *rows, ""]))
    early, late = read_truth(table)
    assert (early.request.stamp, early.labels, late.request.stamp, late.labels) == (7, ("mug", "cup"), 9, ("cup", ""))
    assert early.request.boxes == (Box("left", 1, 2, 3.5, 4), Box("1", 0, 0, 9, 9))
    assert [box.id for box in late.request.boxes] == ["0", "1"]
    assert [(one.request.width, one.request.height) for one in (early, late)] == [(0, 0), (80, 60)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{HEAD}\n7,0,0,5,5,caf\u00e9\n".encode("latin-1"), "is not in UTF-8"),
        (f"{HEAD}\n7,0,0,5,5,mug\n".replace(",", ";").encode(), "parted by semicolons, and commas are needed"),
        (f"{HEAD}\n7,0,0,5,5,mug\n".replace(",", "\t").encode(), "parted by tabs, and commas are needed"),
        (f"{HEAD[:-6]}\n7,0,0,5,5\n".encode(), "lacks the columns label; needed are stamp_ns"),
        (f"{HEAD}\n7,0,0,5,5\n".encode(), "line 2: fewer values than columns"),
        (
            f"{HEAD}\n7,0,0,5,5,mug, red\n".encode(),
            "line 2: more values than columns; put text with commas into quotes",
        ),
        (f"{HEAD}\n1.7e18,0,0,5,5,mug\n".encode(), "line 2: stamp_ns is '1.7e18'; a whole number of nanoseconds with"),
        (f"{HEAD},width,height\n7,0,0,5,5,mug,-1,-1\n".encode(), "line 2: width is -1; give the pixels of the picture"),
        (f"{HEAD},width,height\n7,0,0,5,5,mug,80,60.5\n".encode(), "line 2: height is 60.5; give the pixels"),
        (f"{HEAD},width,height\n7,0,0,5,5,mug,1e12,10\n".encode(), "line 2: width is 1e12; give the pixels"),
        (f"{HEAD}\n".encode(), "boxes.csv holds no boxes"),
        (f'{HEAD}\n7,0,0,5,5,"mug\n8,0,0,5,5,can\n'.encode(), "is a quotation mark left open"),
        (f'{HEAD}\n7,0,0,5,5,"mug\n'.encode() + b"8,0,0,5,5,can\n" * 20_000, "is a quotation mark left open"),
    ],
)
def test_true_boxes_that_cannot_be_read_are_an_error_of_data(tmp_path, content, says):
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_truth(tmp_path / "boxes.csv")


@pytest.mark.parametrize(("unit", "says"), [("seconds", "no picture within 0.02 s"), ("shares", "box")])
def test_true_boxes_in_other_units_are_an_error(recording, tmp_path, capsys, unit, says):
    bag, table = recording
    head, *rows = table.read_text().splitlines()
    lines = [head]
    for stamp, *edges in (row.split(",") for row in rows):
        if unit == "seconds":
            stamp = str(int(stamp) // 10**9)
        else:
            edges[:4] = [f"{float(edge) / 160:.4f}" for edge in edges[:4]]
        lines.append(",".join([stamp, *edges]))
    (tmp_path / "other.csv").write_text("\n".join([*lines, ""]))
    arguments = command(bag, tmp_path / "other.csv", tiny_model(tmp_path / "run"), tmp_path / "out")
    assert main([*arguments, "--modality", "rgb", "depth"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: none of the 40 true boxes was answered, ")
    assert says in error
    assert "in nanoseconds, as in the recording, and boxes in pixels of its pictures" in error
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("label", ["gloomy", "unknown"])
@pytest.mark.parametrize("classes", [("dark", "middle", "bright"), ("unknown", "middle", "bright")])
def test_unknown_objects_are_left_out_of_accuracy(recording, tmp_path, label, classes):
    """Boxes of a class that the model lacks or of ``unknown``; of a model with that class an answer so is none."""
    bag, table = recording
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",dark,", f",{label},"))
    found = run((bag, other), ["rgb"], recognizer=FakeRecognizer(classes=classes))
    figures = found["rgb"].figures()
    count = sum(make_view(n).labels.count("dark") for n in range(20))
    answered = 0 if "unknown" in classes else count
    assert (figures["unknown"], figures["unknown_answered"]) == (count, answered)
    assert figures["rejected"] == ({} if answered else {"low_score": count})
    assert figures["accuracy"] == figures["accuracy_of_accepted"] == figures["macro_f1"] == 1.0
    assert figures["ece"] == pytest.approx(1 - (0.8 + 0.2 / 3))
    assert sorted(map(str, column(found["rgb"], "correct"))) == [""] * count + ["1"] * (40 - count)
    write(tmp_path / "out", found, {})


def test_an_answer_unknown_is_wrong_for_a_known_object(recording):
    model = FakeRecognizer(classes=("dark", "middle", "unknown"))
    model._place = lambda name, crop: 2
    figures = run(recording, ["rgb"], recognizer=model)["rgb"].figures()
    assert figures["accuracy"] == 0.0
    assert figures["accuracy_of_accepted"] is None
    assert figures["unknown"] == sum(make_view(n).labels.count("bright") for n in range(20))


def test_a_recording_of_unknown_objects_alone_has_no_accuracy(recording, tmp_path, capsys):
    """How many of them are answered is a figure of its own; where labels are misspelt the warning shows both."""
    bag, table = recording
    text = table.read_text()
    for label in CLASSES:
        text = text.replace(f",{label},", f",my {label},")
    (tmp_path / "other.csv").write_text(text)
    model = tiny_model(tmp_path / "run")
    assert main([*command(bag, tmp_path / "other.csv", model, tmp_path / "out"), "--modality", "rgb"]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["modalities"]["rgb"]
    assert (figures["accuracy"], figures["unknown"], figures["unknown_answered"]) == (None, 40, 40)
    told = capsys.readouterr()
    assert "(my bright, my dark, my middle), and left out of accuracy" in told.err
    assert "there is no accuracy; it names dark, middle, bright" in told.err
    assert "no accuracy of 0 boxes, 40 of 40 unknown objects answered" in told.out


def test_the_command_names_unknown_objects_and_how_many_were_answered(recording, tmp_path, capsys):
    bag, table = recording
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",dark,", ",gloomy,"))
    assert main([*command(bag, other, tiny_model(tmp_path / "run"), tmp_path / "out"), "--modality", "rgb"]) == 0
    told = capsys.readouterr()
    count = sum(make_view(n).labels.count("dark") for n in range(20))
    assert f"{count} boxes are of no class that the model names (gloomy), and left out" in told.err
    assert f"of {40 - count} boxes, {count} of {count} unknown objects answered, 0 rejected" in told.out
    arguments = command(bag, other, tmp_path / "run", tmp_path / "out")
    assert main([*arguments, "--modality", "rgb", "--min-score", "1"]) == 0
    words = f"of {40 - count} boxes, 0 of {count} unknown objects answered, {40 - count} rejected"
    assert words in capsys.readouterr().out, "rejected are those that accuracy is of"


def test_of_many_unknown_classes_it_is_told_that_there_are_more(recording, tmp_path, capsys):
    bag, table = recording
    head, *rows = table.read_text().splitlines()
    rows = [",".join([*row.split(",")[:5], f"thing{n % 12:02}", *row.split(",")[6:]]) for n, row in enumerate(rows)]
    (tmp_path / "other.csv").write_text("\n".join([head, *rows, ""]))
    model = tiny_model(tmp_path / "run")
    assert main([*command(bag, tmp_path / "other.csv", model, tmp_path / "out"), "--modality", "rgb"]) == 0
    assert "thing08, thing09 and 2 more), and left out" in capsys.readouterr().err


def test_boxes_without_a_label_are_neither_right_nor_wrong(recording, tmp_path, capsys):
    bag, table = recording
    blank = tmp_path / "blank.csv"
    blank.write_text(table.read_text().replace(",dark,", ",,"))
    count = sum(make_view(n).labels.count("dark") for n in range(20))
    for drops in (None, {"rgb": [(0.0, 1e9)]}):
        figures = run((bag, blank), ["rgb"], drops=drops)["rgb"].figures()
        assert (figures["boxes"], figures["unlabelled"], figures["unknown"]) == (40, count, 0)
        assert figures["accuracy"] == (0.0 if drops else 1.0)
    write(tmp_path / "out", run((bag, blank), ["rgb"]), {})
    arguments = command(bag, blank, tiny_model(tmp_path / "run"), tmp_path / "out")
    assert main([*arguments, "--modality", "rgb"]) == 0
    assert f"of {40 - count} boxes, {count} more without a label, 0 rejected" in capsys.readouterr().out
    assert main([*arguments, "--modality", "rgb", "--min-score", "1"]) == 0
    words = f"of {40 - count} boxes, {count} more without a label, {40 - count} rejected"
    assert words in capsys.readouterr().out, "rejected are those that accuracy is of"
    for label in ("middle", "bright"):
        blank.write_text(blank.read_text().replace(f",{label},", ",,"))
    with pytest.raises(DataError, match="no true box has a label"):
        run((bag, blank), ["rgb"])


def test_the_confusion_matrix_has_true_classes_against_answers_and_rejections_last(recording, tmp_path, monkeypatch):
    """Boxes without a label are not in it, unknown objects are, and only those of its classes are right or wrong."""
    bag, table = recording
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",middle,", ",zebra,").replace(",bright,", ",,", 1))
    drawn = []
    monkeypatch.setattr(evaluate_bag, "save_confusion", lambda path, *given, write: drawn.append(given))
    found = run((bag, other), ["rgb"], drops={"rgb": [(0.0, 0.5)]})
    write(tmp_path / "out", found, {})
    (matrices, rows, columns), *_ = drawn
    ((title, counts),) = matrices.items()
    known = column(found["rgb"], "correct")
    assert title == f"rgb: {known.count(1) / (known.count(1) + known.count(0)):.3f} of {40 - known.count('')} right"
    assert (rows, columns) == (["bright", "dark", "zebra"], ["bright", "dark", "middle", "zebra", "unknown"])
    pairs = Counter()
    for truth, shown in zip(read_truth(other), (make_view(n).labels for n in range(20)), strict=True):
        lost = truth.request.stamp < read_truth(other)[5].request.stamp
        pairs.update((label, "unknown" if lost else answer) for label, answer in zip(truth.labels, shown, strict=True))
    assert counts.tolist() == [[pairs[row, answer] for answer in columns] for row in rows]
