"""Meshes that were read once, laid down where every process can take them from without reading their files again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mmcl_core.data.files import temporary_folder
from mmcl_core.synth.mesh import Mesh

__all__ = ["MeshShelf", "temporary_shelf"]

#: Of its folder among the temporary files.
_PREFIX = "mmcl-meshes-"

_ARRAYS = ("vertices", "faces", "uv", "normals", "shows", "gloss")
_SHARE = 0.25  # of what is free on the disk when the shelf is made


class MeshShelf:
    """A folder that holds meshes as plain arrays, mapped into memory when taken.

    Reading a mesh from its own file takes some tenths of a second, taking it from here a thousandth; processes that
    take the same one share its memory.

    Args:
        folder: an empty one, or one that another process has filled.
        room: bytes it may take; left out, a quarter of what is free on its disk.

    Attributes:
        room: bytes that this object may still lay down; others with the same folder have theirs.
    """

    def __init__(self, folder: str | Path, room: int | None = None) -> None:
        self.folder = Path(folder)
        self.room = int(shutil.disk_usage(self.folder).free * _SHARE) if room is None else room

    def put(self, number: int, mesh: Mesh) -> bool:
        """Lay a mesh down under a number; where there is no room for it, it is left out.

        Returns:
            Whether it lies there now.
        """
        pictures = (mesh.texture, *mesh.others)
        arrays = {name: np.asarray(getattr(mesh, name)) for name in _ARRAYS}
        arrays |= {f"picture-{k}": picture for k, picture in enumerate(pictures)}
        size = sum(array.nbytes for array in arrays.values())
        if size > self.room:
            return False
        place, part = self._place(number), self.folder / f"{number}.part"
        try:
            part.mkdir()
            for name, array in arrays.items():
                np.save(part / f"{name}.npy", array, allow_pickle=False)
            part.replace(place)
        except OSError:  # such as a full disk: its file is read again instead
            shutil.rmtree(part, ignore_errors=True)
            self.room = 0
            return False
        self.room -= size
        return True

    def take(self, number: int) -> Mesh | None:
        """The mesh under a number, without the remarks on its file; ``None`` where there is none."""
        place = self._place(number)
        try:
            vertices, faces, uv, normals, shows, gloss = (_mapped(place / f"{name}.npy") for name in _ARRAYS)
            count = len(list(place.glob("picture-*.npy")))
            texture, *others = (_mapped(place / f"picture-{k}.npy") for k in range(count))
        except (FileNotFoundError, ValueError):  # it was never laid down, or somebody tidies up
            return None
        return Mesh(vertices, faces, uv, texture, float(gloss), normals, others, shows)

    def _place(self, number: int) -> Path:
        return self.folder / str(number)


@contextmanager
def temporary_shelf() -> Iterator[MeshShelf]:
    """A shelf among the temporary files for the length of a block; what killed processes left there is removed."""
    with temporary_folder(Path(tempfile.gettempdir()), _PREFIX) as folder:
        yield MeshShelf(folder)


def _mapped(path: Path) -> np.ndarray:
    """An array in a file, its own where it is written to."""
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
