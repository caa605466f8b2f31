"""The table of `eval.compare`: shares of the gap, and Markdown."""

from __future__ import annotations

import numpy as np

from eval.texts import markdown
from imcl_tf.ops.metrics import Support

# The logistic models that the gap is between: at the observed labels, and with
# all labels observed.
START, FULL = "logistic", "logistic, all labels observed"


def shares(
    scores: list[float], start: list[float], full: list[float]
) -> list[float] | None:
    """Which share of the gap between two logistic models a row recovers.

    Args:
      scores: test mAP of the row, for each seed.
      start: of the logistic model at the observed labels.
      full: of that with all labels observed.

    Returns:
      in percent, for each seed; None if the gap is not above its deviation.
    """
    gaps = np.subtract(full, start)
    deviation = np.std(gaps, ddof=1) if len(gaps) > 1 else 0.0
    if gaps.min() <= 0 or gaps.mean() <= deviation:
        return None
    return [float(x) for x in 100 * np.subtract(scores, start) / gaps]


def add_shares(entries: list[dict]):
    """Gives each entry its "gap_share", where all labels were run."""
    of = {(entry["row"], entry["regime"]): entry["mAP"] for entry in entries}
    for entry in entries:
        regime = entry["regime"]
        if (FULL, regime) in of:
            entry["gap_share"] = shares(
                entry["mAP"], of[START, regime], of[FULL, regime]
            )


def table(entries: list[dict]) -> str:
    """The entries as Markdown, a table for each regime."""
    regimes = dict.fromkeys(entry["regime"] for entry in entries)
    parts = [
        _part([entry for entry in entries if entry["regime"] == regime])
        for regime in regimes
    ]
    support = Support(**entries[0]["mAP_support"])
    return "\n\n".join([*parts, f"Test mAP on {support}."])


def _part(entries: list[dict]) -> str:
    with_share = "gap_share" in entries[0]
    best = max(
        (np.mean(x["mAP"]) for x in entries if x["row"] != FULL), default=0
    )
    header = [entries[0]["regime"], "mAP", "share of the gap, %", "chosen"]
    lines = []
    for entry in entries:
        boosted = ", boosted" if "boost" in entry["settings"] else ""
        score = _spread(entry["mAP"])
        if entry["row"] != FULL and np.mean(entry["mAP"]) == best:
            score = f"**{score}**"
        share = entry.get("gap_share")
        lines.append([
            entry["row"] + boosted, score, _spread(share, 0) if share else "",
            _choice(entry),
        ])  # fmt: skip
    kept = [0, 1, 2, 3] if with_share else [0, 1, 3]
    columns = [[line[i] for i in kept] for line in (header, *lines)]
    text = [markdown(columns[0], columns[1:])]
    if with_share and entries[0]["gap_share"] is None:
        gap = np.subtract(entries[1]["mAP"], entries[0]["mAP"])
        text += ["", f"No share: the gap is {_spread(gap)}, not above chance."]
    return "\n".join(text)


def _choice(entry: dict) -> str:
    """Settings chosen on the first seed, and what each seed's run chose."""
    tried = ", ".join(
        f"{flag.replace('learning_', '')} {value}"
        for flag, value in entry["settings"].items()
        if flag != "boost"
    )
    own = dict.fromkeys(map(_in_words, entry["chosen"]))
    return "; ".join(text for text in (tried, *own) if text)


def _in_words(own: dict) -> str:
    own = dict(own)
    near = own.pop("neighbors", None)
    if isinstance(near, dict):
        near = (
            f"share {near['share']:g} of {near['number']} neighbours by "
            f"{near['by']}"
        )
    elif near:  # of auto
        near = "with neighbours"
    words = [] if "method" not in own else [own.pop("method")]
    if not words:
        words = [f"{name} {_short(x)}" for name, x in own.items()]
    return ", ".join([*words, *([near] if near else [])])


def _short(value) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _spread(scores, digits: int = 2) -> str:
    """Mean and deviation, which a single score has not."""
    text = f"{np.mean(scores):z.{digits}f}"
    if len(scores) > 1:
        text += f" ± {np.std(scores, ddof=1):.{digits}f}"
    return text
