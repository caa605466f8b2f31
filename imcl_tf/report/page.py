"""Writes the page: runs and their data in, one HTML file out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from absl import logging
from markupsafe import Markup

import imcl_tf
from imcl_tf.data.multi_label_dataset import MultiLabelDataset
from imcl_tf.files import replacing
from imcl_tf.report import charts, plan, sections
from imcl_tf.report.contents import (
    Run,
    find_runs,
    is_number,
    read_brief,
    read_run,
)
from imcl_tf.report.pictures import (
    SIDE,
    UNREADABLE,
    Album,
    check_same,
    open_data,
    path_text,
)
from imcl_tf.settings import PROGRAM_DATA
from imcl_tf.training.workdir import REPORT

# Runs that are shown in full, and their labels altogether, so that the page
# stays small; the others are lines of the table.
_MOST_RUNS = 12
_MOST_LABELS = 4000
_MOST_PICTURES = 400  # thumbnails of the page, 3 to 5 KB each
_LONGEST = 20_000  # characters of a text, which flags.cfg may have
_DATA_FLAGS = {option.name for option in PROGRAM_DATA}


class View(NamedTuple):
    """A run as the templates show it, see `sections`.

    Attributes:
      number: of the run on the page, from 1.
      name: see `plan.names`.
      run: what the workdir holds.
      without_pictures: why there are no thumbnails, "" = there are.
      data: what the page's script reads: the table of labels and the graph.
      pictures: test images.
      similar: training images with similar ones.
      calibration: the diagram and its bins, None without predictions.
    """

    number: int
    name: str
    run: Run
    without_pictures: str
    data: dict[str, Any]
    pictures: list[sections.Picture]
    similar: list[sections.Neighborhood]
    calibration: tuple | None


def write_report(
    runs: Sequence[Path],
    out: Path,
    data: MultiLabelDataset | None = None,
    names: Mapping[Path, str] | None = None,
    tables: Sequence[plan.PlanTable] = (),
):
    """Writes a page about runs, which needs no other file and no network.

    Args:
      runs: workdirs, or directories that hold some; see `find_runs`.
      out: the HTML file.
      data: that the runs are on; None = opened as their flags say. Where it
        cannot be opened or has changed, the page has no pictures and says so.
      names: workdir -> what its run is called, else by its path.
      tables: of plans, which stand at the top.

    Raises:
      ValueError: if there is no run, or a damaged results.json.
      OSError: if a file cannot be read or written.
    """
    paths = find_runs(runs)
    full = _in_full(paths)
    found = [*full, *(read_brief(path) for path in paths[len(full) :])]
    album = Album()
    library = _Library(data, album)
    called = plan.names(paths, names)
    share = _MOST_PICTURES // len(full)
    views = []
    for number, run in enumerate(full, 1):
        album.allow(share)
        views.append(_view(number, called[number - 1], run, library))
    thumbnails, views = _thumbnails(album, views)
    text = _environment().get_template("page.html.j2").render(
        version=imcl_tf.__version__,
        views=views,
        tables=tables,
        lines=plan.lines(found, called) if len(found) > 1 or tables else [],
        warnings=plan.warnings(found, called),
        # The tables of plans have these means.
        summaries=[] if tables else plan.summaries(found),
        thumbnails=thumbnails,
        side=SIDE,
        frame=charts.unit_chart("Precision", "", "recall", []),
        sections=sections,
        chart=charts,
    )  # fmt: skip
    with replacing(out) as path:
        # JSON may hold half a character, which no file can.
        path.write_text(text, "utf-8", "replace")


def _in_full(paths: Sequence[Path]) -> list[Run]:
    """The runs that the page shows in full: as many as it has space for."""
    found: list[Run] = []
    labels = 0
    for path in paths[:_MOST_RUNS]:
        run = read_run(path)
        labels += len(run.label_names)
        if found and labels > _MOST_LABELS:
            break
        found.append(run)
    return found


class _Library:
    """Data sets by the flags that name them, each opened once."""

    def __init__(self, given: MultiLabelDataset | None, album: Album):
        self._given, self.album = given, album
        self._opened: dict[str, tuple[int, MultiLabelDataset] | str] = {}

    def key_of(self, run: Run) -> tuple[Callable[[str, int], str], str]:
        """How a run's thumbnails are asked for; or why there are none."""
        try:
            number, data = self._data(run)
            check_same(run, data)
        except UNREADABLE as error:
            return lambda split, image: "", " ".join(str(error).split())
        return lambda split, image: self.album.key(number, split, image), ""

    def _data(self, run: Run) -> tuple[int, MultiLabelDataset]:
        names = sorted(run.settings.items()) if self._given is None else []
        place = repr([x for x in names if x[0] in _DATA_FLAGS])
        if place not in self._opened:
            try:
                data = self._given or open_data(run)
                self._opened[place] = self.album.add_data(data), data
            except (ValueError, OSError) as error:
                self._opened[place] = str(error)
        opened = self._opened[place]
        if isinstance(opened, str):
            raise ValueError(opened)
        return opened


def _view(number: int, name: str, run: Run, library: _Library) -> View:
    key, without = library.key_of(run)
    found = calibration = None
    if run.predictions is not None:
        found = sections.entries(run, run.predictions)
        claimed = "probability"
        if not run.has_probabilities:
            claimed = "sigmoid of the score"
        calibration = sections.calibration(found, claimed)
    # In the order in which thumbnails are kept.
    pictures = sections.pictures(run, key)
    similar = sections.similar_images(run, key)
    table = sections.label_table(run, found, key)
    names = list(run.label_names)
    data = {"table": table, "graph": sections.graph(run), "names": names}
    return View(
        number, name, run, without, data, pictures, similar, calibration
    )


def _thumbnails(
    album: Album, views: list[View]
) -> tuple[dict[str, str], list[View]]:
    """What the album holds; without, the views say why."""
    try:
        return album.load(), views
    except UNREADABLE as error:
        why = " ".join(str(error).split())
        return {}, [
            view._replace(without_pictures=view.without_pictures or why)
            for view in views
        ]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imcl_tf.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_cut,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False, "separators": (",", ":"),
    }  # fmt: skip
    environment.filters |= {"number": _number, "path": path_text}
    environment.tests["finite"] = is_number
    return environment


def _cut(value: Any) -> Any:
    """A text of a workdir without its end where it is huge."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    if is_text and len(value) > _LONGEST:
        return f"{value[:_LONGEST]}…"
    return value


def _number(value: Any, form: str = ".2f") -> str:
    """A number as text; a dash where it is none."""
    if not is_number(value):
        return "–"
    text = format(value, form)
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def leave_report(workdir: Path, data: MultiLabelDataset):
    """Writes a finished run's page into its workdir, unless it is there.

    What goes wrong is a warning: the run is finished all the same.

    Args:
      workdir: of the run.
      data: that it was on.
    """
    file = workdir / REPORT
    if file.exists():
        return
    try:
        write_report([workdir], file, data)
    except Exception as error:  # a run of days must not end as failed
        reason = " ".join(str(error).split())
        logging.warning("%s could not be written: %s", file, reason)
