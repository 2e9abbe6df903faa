"""Numbers in texts for people."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, one: str = "", more: str = "") -> str:
    """``1 class``, ``2 classes``, ``0 samples``: a number and its noun, given in the singular.

    With a verb in both numbers, ``one`` and ``more``, that verb follows: ``1 box is``, ``2 boxes are``.
    """
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    verb = one if number == 1 else more
    return f"{number} {noun}{ending}{verb and ' '}{verb}"
