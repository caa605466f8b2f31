"""Charts as numbers that a template draws: places of ticks, paths, texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# In units of the drawing. Its text is of 12 units, and of 12 pixels or more
# where the drawing is 320 pixels wide or more.
WIDTH, HEIGHT = 320, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 312, 12, 168
Points = Sequence[tuple[float, float]]


class Tick(NamedTuple):
    """A mark of an axis: where it is in the drawing, and its text."""

    place: float
    text: str


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
      name: what it shows.
      path: of SVG.
      dots: places of its points, empty where these are many.
    """

    name: str
    path: str
    dots: list[tuple[float, float]]


class Chart(NamedTuple):
    """A chart of lines.

    Attributes:
      title: what it shows.
      text: the same for those who do not see it.
      x_label: of the axis to the right.
      x_ticks: of that axis.
      y_ticks: of the axis upwards.
      lines: in the order of their colours.
      points: [lines] the numbers themselves.
    """

    title: str
    text: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    points: list[Points]


class Axis(NamedTuple):
    """From numbers to places in the drawing.

    Attributes:
      low: the number at `begin`.
      high: the number at `end`.
      begin: place of the axis's start.
      end: place of its end.
      is_logarithmic: whether numbers are placed by their logarithms.
    """

    low: float
    high: float
    begin: float
    end: float
    is_logarithmic: bool = False

    def place(self, value: float) -> float:
        """The place of a number, rounded to a tenth."""
        low, high = self.low, self.high
        if self.is_logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self, most: int = 5, smallest: float = 0) -> list[Tick]:
        """Round numbers on the axis, apart by `smallest` at least."""
        if self.is_logarithmic:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            powers = range(first, last + 1, max(1, (last - first) // most))
            values = [10.0**power for power in powers]
            if not values[1:]:  # within a decade or two
                values = self._of_decades(first - 1, last)
        else:
            step = _round_step(max((self.high - self.low) / most, smallest))
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            values = [step * number for number in range(first, last + 1)]
        return [Tick(self.place(x), f"{x:.4g}") for x in values]

    def _of_decades(self, first: int, last: int) -> list[float]:
        """1, 2 and 5 of some decades, those on the axis; or else its ends."""
        steps = [
            step * 10.0**power
            for power in range(first, last + 1)
            for step in (1, 2, 5)
        ]
        inside = [x for x in steps if self.low <= x <= self.high]
        return inside or [self.low, self.high]


def _round_step(step: float) -> float:
    """The next one of 1, 2, 5, 10 and so on."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(x * power for x in (1, 2, 5, 10) if x * power >= step * 0.999)


def line_chart(
    title: str,
    x_label: str,
    lines: Sequence[tuple[str, Points]],
    is_logarithmic: bool = False,
) -> Chart:
    """A chart of lines over one axis.

    Args:
      title: with the unit.
      x_label: of the axis to the right.
      lines: name and points (x, y) of each; one point at least altogether.
      is_logarithmic: whether x, which is positive then, is so.
    """
    everything = [point for _, points in lines for point in points]
    x_axis = _axis([x for x, _ in everything], LEFT, RIGHT, is_logarithmic)
    y_axis = _axis([y for _, y in everything], BOTTOM, TOP)
    # There is nothing between two epochs.
    whole = 1 if x_label == "epoch" else 0
    return Chart(
        title,
        f"{title} by {x_label}. " + " ".join(map(_in_words, lines)),
        x_label,
        x_axis.ticks(smallest=whole),
        y_axis.ticks(4),
        [_line(name, points, x_axis, y_axis) for name, points in lines],
        [points for _, points in lines],
    )


def unit_chart(title: str, text: str, x_label: str, points: Points) -> Chart:
    """A chart of one line, or none, in the square from 0 to 1."""
    x_axis = Axis(0, 1, LEFT, RIGHT)
    y_axis = Axis(0, 1, BOTTOM, TOP)
    return Chart(
        title, text, x_label, x_axis.ticks(), y_axis.ticks(),
        [_line(title, points, x_axis, y_axis)], [points],
    )  # fmt: skip


def _axis(
    values: Sequence[float],
    begin: float,
    end: float,
    is_logarithmic: bool = False,
) -> Axis:
    low, high = min(values), max(values)
    if is_logarithmic:
        return Axis(low / 1.2, high * 1.2, begin, end, True)
    # A line that is level lies in the middle.
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    if begin == LEFT:  # epochs begin at the corner
        margin = 0.0 if high > low else max(0.5, 0.1 * abs(high))
    return Axis(low - margin, high + margin, begin, end)


def _line(name: str, points: Points, x_axis: Axis, y_axis: Axis) -> Line:
    dots = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in dots) if dots else ""
    return Line(name, path, dots if len(dots) <= 40 else [])


def _in_words(line: tuple[str, Points]) -> str:
    name, points = line
    if not points:
        return f"{name}: no point."
    (first_x, first), (last_x, last) = points[0], points[-1]
    best_x, best = max(points, key=lambda point: point[1])
    return (
        f"{name}: {first:.4g} at {first_x:.4g}, {last:.4g} at {last_x:.4g}, "
        f"highest {best:.4g} at {best_x:.4g}."
    )
