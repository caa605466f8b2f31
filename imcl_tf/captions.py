"""Labels from captions: their most frequent words (paper, sec. 4.1)."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable

VOCABULARY_SIZE = 1000
_WORD = re.compile(r"[^\W_]+")


def split_words(text: str) -> list[str]:
    """Words in lower case; punctuation parts them and is no word itself."""
    return _WORD.findall(text.lower())


def most_frequent_words(
    texts: Iterable[str], size: int = VOCABULARY_SIZE
) -> tuple[str, ...]:
    """At most `size` words, the most frequent first, ties by alphabet.

    No word is too common: the released list for MS-COCO begins with "a".
    """
    counts = collections.Counter(
        itertools.chain.from_iterable(map(split_words, texts))
    )
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size])
