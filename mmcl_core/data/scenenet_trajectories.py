"""The protobuf files of SceneNet RGB-D: trajectories with their frames and objects; wnids of the classes.

The schema is built here, with the fields that are needed and the numbers of the published ``scenenet.proto``. A file
is a row of trajectories; they are read one by one, so that memory does not grow with the file. Needs protobuf.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmcl_core.data.rooms import CLASSES as ROOM_CLASSES
from mmcl_core.data.sources import optional_import
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["CLASSES", "WNIDS", "Trajectory", "messages", "read_trajectories"]

#: The 19 classes of NYU-D without those that SceneNet RGB-D has no or hardly any object of.
CLASSES = tuple(name for name in ROOM_CLASSES if name not in ("box", "night-stand", "sink"))

#: Numbers of WordNet nouns, and those from 20000000 on that ShapeNet made up. An object of another number is left out.
_WNIDS = {
    "bathtub": "02808440 bathtub",
    "bed": """02920083 bunk, 02920259 bunk bed, 03165096 daybed, 03962852 platform bed, 20000004 bed with headboard,
        20000006 king-size bed, 20000007 other bed""",
    "bookshelf": "02871439 bookshelf",
    "chair": """02738535 armchair, 03001627 chair, 03168217 deck chair, 03262932 easy chair, 03376595 folding chair,
        03649674 lawn chair, 03786621 morris chair, 04062428 recliner, 04099969 rocking chair, 04331277 straight chair,
        04373704 swivel chair, 04590933 windsor chair, 04593077 wing chair, 20000015 ball chair,
        20000016 barcelona chair, 20000018 bean chair, 20000020 cantilever chair, 20000021 no. 14 chair,
        20000022 rex chair, 20000023 tulip chair, 20000024 wassily chair, 20000025 X chair, 20000026 zigzag chair,
        20000027 club chair""",
    "counter": "03116530 counter, 04061681 reception desk",
    "desk": "03179701 desk, 04164868 secretary, 04608329 writing desk",
    "door": "03221720 door",
    "dresser": "03237340 dresser, 03238586 dressing table",
    "garbage-bin": "02747177 ashcan",
    "lamp": "03367059 floor lamp, 03636248 lamp (a light), 03636649 lamp (furniture), 04380533 table lamp",
    "monitor": """03085219 computer monitor, 03085602 computer screen, 03211117 display, 03211616 display panel,
        03676759 liquid crystal display, 03782190 monitor, 04152593 screen""",
    "pillow": "03938244 pillow",
    "sofa": """03015149 chesterfield, 03115762 couch, 03693474 love seat, 04177755 settee, 04256520 sofa,
        04344873 studio couch, 20000028 double couch, 20000029 L-shaped couch, 20000030 leather couch""",
    "table": """02964075 card table, 03063968 coffee table, 03092883 console table, 03231368 drafting table,
        03246933 drop-leaf table, 03620967 kitchen table, 03904060 pedestal table, 04379243 table, 04398951 tea table,
        04603729 worktable, 08266235 table, 20000036 cabinet table, 20000037 rectangular table, 20000038 round table,
        20000039 short table, 20000040 side table, 20000041 workshop table""",
    "television": "06277280 television",
    "toilet": "04446276 toilet, 04447028 toilet bowl",
}
#: Class by number, 8 digits.
WNIDS = {entry.split()[0]: name for name, entries in _WNIDS.items() for entry in entries.split(",")}

#: Fields of each message: name, number, type; a message type is repeated.
_SCHEMA: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Instance": (("instance_id", 1, "int32"), ("semantic_wordnet_id", 2, "string"), ("instance_type", 4, "int32")),
    "View": (("frame_num", 1, "int32"),),
    "Trajectory": (("instances", 2, "Instance"), ("views", 3, "View"), ("render_path", 4, "string")),
    "Trajectories": (("trajectories", 1, "Trajectory"),),
}
_BACKGROUND = 1


@dataclass(frozen=True)
class Trajectory:
    """What is needed of a trajectory.

    Attributes:
        path: of its folder, relative to that of the split, such as ``0/223``.
        labels: class by number in the instance pictures, of those that have one.
        frames: int32, numbers of the pictures, ascending.
    """

    path: str
    labels: dict[int, int]
    frames: npt.NDArray[np.int32]


@functools.lru_cache(maxsize=1)
def messages() -> dict[str, Any]:
    """The message classes by name: Instance, View, Trajectory, Trajectories.

    Raises:
        ConfigError: protobuf is not installed.
    """
    purpose = "reading the trajectories of SceneNet RGB-D"
    descriptor_pb2 = optional_import("google.protobuf.descriptor_pb2", purpose)
    kind = descriptor_pb2.FieldDescriptorProto
    kinds = {"int32": kind.TYPE_INT32, "string": kind.TYPE_STRING}
    file = descriptor_pb2.FileDescriptorProto(name="mmcl_core/scenenet.proto", package="scenenet", syntax="proto2")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, what in fields:
            if what in kinds:
                message.field.add(name=field, number=number, type=kinds[what], label=kind.LABEL_OPTIONAL)
            else:
                message.field.add(
                    name=field, number=number, type=kind.TYPE_MESSAGE, type_name=f".scenenet.{what}",
                    label=kind.LABEL_REPEATED,
                )  # fmt: skip
    pool = optional_import("google.protobuf.descriptor_pool", purpose).DescriptorPool()
    pool.Add(file)
    make = optional_import("google.protobuf.message_factory", purpose).GetMessageClass
    return {name: make(pool.FindMessageTypeByName(f"scenenet.{name}")) for name in _SCHEMA}


def read_trajectories(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file, one by one.

    Args:
        path: such as ``scenenet_rgbd_val.pb``.

    Raises:
        DataError: missing, truncated or damaged; the message does not repeat the path.
    """
    message = messages()["Trajectory"]
    error_type = optional_import("google.protobuf.message", "reading trajectories").DecodeError
    labels = {wnid: CLASSES.index(name) for wnid, name in WNIDS.items()}
    count = 0
    try:
        with path.open("rb") as file:
            while (data := _next_field(file)) is not None:
                one = message.FromString(data)
                known = {
                    instance.instance_id: labels[wnid]
                    for instance in one.instances
                    if (wnid := instance.semantic_wordnet_id.zfill(8)) in labels
                    and instance.instance_type != _BACKGROUND
                }
                frames = np.unique(np.array([view.frame_num for view in one.views], np.int32))
                if not one.render_path or not len(frames):
                    raise DataError("it has no render_path or no views")
                yield Trajectory(one.render_path.strip("/"), known, frames)
                count += 1
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    except (DataError, error_type) as error:
        raise DataError(
            f"is damaged after {count} {'trajectory' if count == 1 else 'trajectories'}: {error}"
        ) from error


def _next_field(file: BinaryIO) -> bytes | None:
    """The content of the next trajectory in a file of ``Trajectories``; None at the end."""
    tag = file.read(1)
    if not tag:
        return None
    if tag != b"\x0a":  # field 1, a message
        raise DataError(f"the byte {tag.hex()} begins no trajectory")
    length = 0
    for shift in range(0, 35, 7):
        byte = file.read(1)
        if not byte:
            raise DataError("it ends in the midst of a length")
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    data = file.read(length)
    if len(data) < length:
        raise DataError(f"it ends {counted(length - len(data), 'byte')} too early")
    return data
