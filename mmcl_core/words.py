"""Numbers in texts for people."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """``1 class``, ``2 classes``, ``1 sample``, ``0 samples``: a number and its noun, given in the singular."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"
