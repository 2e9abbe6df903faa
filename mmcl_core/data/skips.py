"""Which of the files and samples that are left out are named: some of each kind."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from mmcl_core.data.sources import Skip
from mmcl_core.data.writer import PreparedWriter

__all__ = ["SKIPS_SHOWN", "SkipLog", "examples"]

#: How many are named, at least where there are so many.
SKIPS_SHOWN = 20

logger = logging.getLogger(__name__)


class SkipLog:
    """Counts what is left out, and logs the first of all, and the first for each of the first reasons.

    Attributes:
        count: of all.
    """

    def __init__(self) -> None:
        self.count = self._shown = 0
        self._first: Skip | None = None
        self._reasons: set[str] = set()

    def note(self, skip: Skip, writer: PreparedWriter) -> None:
        """Count one, and tell the set that is being written."""
        self._first = self._first or skip
        self.count += 1
        writer.skip(skip.name, skip.reason)
        new = len(self._reasons) < SKIPS_SHOWN and skip.reason not in self._reasons
        if new or self.count <= SKIPS_SHOWN:
            self._reasons.add(skip.reason)
            self._shown += 1
            logger.warning("skipped %s: %s", skip.name, skip.reason)

    def summary(self) -> str:
        """What there was, where not one sample can be used."""
        if self._first is None:
            return "it gave no sample at all"
        return f"the first of {self.count} skipped: {self._first.name}: {self._first.reason}"

    def close(self) -> None:
        """Log how many were not logged by name."""
        if self.count > self._shown:
            logger.warning("skipped %d more; the index lists the first by name", self.count - self._shown)


def examples(skips: Sequence[Skip]) -> list[Skip]:
    """At most :data:`SKIPS_SHOWN`: the first for each reason, then the second for each, and so on."""
    before: Counter[str] = Counter()
    ranked = []
    for skip in skips:
        ranked.append((before[skip.reason], skip))
        before[skip.reason] += 1
    return [skip for _, skip in sorted(ranked, key=lambda item: item[0])[:SKIPS_SHOWN]]
