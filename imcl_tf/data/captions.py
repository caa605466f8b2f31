"""Labels from captions: their most frequent words (paper, sec. 4.1)."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable

VOCABULARY_SIZE = 1000
_WORD = re.compile(r"[^\W_]+")


def split_words(text: str) -> list[str]:
    """Splits a text at punctuation and white space into words in lower case."""
    return _WORD.findall(text.lower())


def most_frequent_words(
    texts: Iterable[str], size: int = VOCABULARY_SIZE
) -> tuple[str, ...]:
    """The most frequent words of texts.

    No word counts as too common: the list released for MS-COCO begins with "a".

    Args:
      texts: to count words in, see `split_words`.
      size: maximum number of words.

    Returns:
      at most `size` words, the most frequent first, ties in alphabetical order.
    """
    counts = collections.Counter(
        itertools.chain.from_iterable(map(split_words, texts))
    )
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size])
