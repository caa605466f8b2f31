"""Labels from captions: their most frequent words (paper, sec. 4.1)."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterable

VOCABULARY_SIZE = 1000
_WORD = re.compile(r"[^\W_]+")
# Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese: what stands between two
# spaces is a clause there.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def split_words(text: str) -> list[str]:
    """Splits a text at punctuation and white space into words in lower case."""
    return _WORD.findall(text.lower())


def is_unspaced(text: str) -> bool:
    """Whether a text has letters of a script without spaces between words.

    `split_words` would make a word of each clause.
    """
    return _UNSPACED.search(text) is not None


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
