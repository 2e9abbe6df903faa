"""A recogniser that costs nothing, for measures of the node itself.

``python -m mmcl_ros.constant_recognizer --ros-args ...`` runs the node with it, whatever the parameter ``model`` says.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["ConstantRecognizer", "main"]


class ConstantRecognizer:
    """A recogniser that answers the first class at no cost."""

    classes = ("one", "two")
    modalities = ("rgb", "depth")
    model_id = "stand-in"
    backend, device = "nothing", "cpu"
    takes_distances = True
    uses_camera = False

    def recognize(self, rgb: Any = None, depth: Any = None, camera: Any = None, top_k: int = 5) -> Any:
        """The same answer for every crop."""
        count = len(rgb if rgb is not None else depth)
        seen = [
            "".join(
                name for name, crops in (("rgb", rgb), ("d", depth)) if crops is not None and crops[row] is not None
            )
            for row in range(count)
        ]
        return SimpleNamespace(
            probabilities=np.tile([0.9, 0.1], (count, 1)),
            embeddings=np.tile([1.0, 0.0], (count, 1)),
            modality=["depth" if name == "d" else name for name in seen],
            top_labels=[["one", "two"][:top_k]] * count,
            top_scores=np.tile([0.9, 0.1], (count, 1))[:, :top_k],
        )


def main(args: list[str] | None = None) -> int:
    """Run the node with this recogniser until it is told to end."""
    from mmcl_ros import recognizer_node

    return recognizer_node.main(args, lambda path, **settings: ConstantRecognizer())


if __name__ == "__main__":
    raise SystemExit(main())
