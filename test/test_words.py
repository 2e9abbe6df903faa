"""Numbers in texts: the noun, and the verb after it, in the number that they are of."""

import pytest

from mmcl_core.words import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "sample", "0 samples"),
        (1, "sample", "1 sample"),
        (2, "sample", "2 samples"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (1, "box", "1 box"),
        (2, "box", "2 boxes"),
        (2, "key", "2 keys"),
    ],
)
def test_nouns(number, noun, said):
    assert counted(number, noun) == said


@pytest.mark.parametrize(("number", "said"), [(0, "0 boxes are"), (1, "1 box is"), (2, "2 boxes are")])
def test_verbs(number, said):
    assert counted(number, "box", "is", "are") == said
