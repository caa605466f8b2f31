"""Pages made at build time: flags.md, api.md, and files from outside docs/.

`flags_page` and `api_page` are written from the code, so they cannot fall
behind it. Links to `../FILE` of the pages work on disk; here they lead to the
copies of `OUTSIDE`.
"""

from __future__ import annotations

import logging
import os
import re
import types
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parents[1]
# Files beside docs/ that the site holds too.
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "eval/results/birds-10.md",
    "eval/results/birds-48px.md",
    "eval/results/clothing-100.md",
    "eval/results/clothing-20.md",
    "eval/results/clothing-48px.md",
    "eval/results/corel5k-10.md",
    "eval/results/growth.png",
)
# Wing of the package -> heading on the API page, in this order.
WINGS = {
    "data": "Data",
    "backbones": "Backbones",
    "methods": "Methods",
    "training": "Training and use",
    "ops": "Functions of tensors",
    "": "Presets and options",
}
_KINDS = {bool: "true, false", int: "integer", float: "number", str: "text"}


def on_files(files, config):
    """Adds the generated pages and the files from outside docs/."""
    from mkdocs.structure.files import File

    # TensorFlow's own messages are not the documentation's.
    logging.getLogger("absl").setLevel(logging.ERROR)
    for name, text in (("flags.md", flags_page()), ("api.md", api_page())):
        files.append(File.generated(config, name, content=text))
    for name in OUTSIDE:
        path = str(ROOT / name)
        files.append(File.generated(config, name, abs_src_path=path))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links out of docs/, and from outside into it, to their pages."""
    del config, files
    if page.file.src_uri in OUTSIDE:
        return re.sub(r"\]\(docs/", "](", markdown)
    for name in OUTSIDE:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return markdown


def flags_page() -> str:
    """Returns flags.md: every option of `imcl_tf.settings`."""
    from imcl_tf import settings

    lines = [
        "# Flags and options",
        "",
        "Every option is a flag of `imcl_tf.main` and, where a Python object "
        "does not take its place, an argument of `imcl_tf.run` or of the "
        "method's class. `python -m imcl_tf.main --help` prints the same list.",
        "",
        "A data set's flag file, `flags/NAME.cfg`, changes some of these "
        "defaults; the command line wins over the file.",
    ]
    groups = {
        "Data": (*settings.PROGRAM_DATA, *settings.DATA),
        "Model": settings.MODEL,
        "Method": (*settings.METHOD, settings.BUDGET),
        "Training": settings.TRAINING,
        "Similar training pictures at prediction": settings.NEIGHBORS,
        "Files": (*settings.FILES, settings.EXPORT),
        "Machine": settings.MACHINE,
    }
    for heading, options in groups.items():
        lines += ["", f"## {heading}", "", *_table(options)]
    lines += ["", "## Options of the methods"]
    for name, options in settings.METHOD_OPTIONS.items():
        if options:
            lines += ["", f"### `{name}`", "", *_table(options)]
    without = [n for n, own in settings.METHOD_OPTIONS.items() if not own]
    names = ", ".join(f"`{name}`" for name in without)
    lines += ["", f"These methods have no options: {names}.", ""]
    return "\n".join(lines)


def _table(options) -> list[str]:
    rows = ["| option | default | values | |", "|---|---|---|---|"]
    for option in options:
        default = option.default
        if isinstance(default, bool):
            default = str(default).lower()
        shown = "" if default == "" else f"`{default}`"
        text = option.help.replace("|", "\\|")
        rows.append(
            f"| `--{option.name}` | {shown} | {_values(option)} | {text} |"
        )
    return rows


def _values(option) -> str:
    if option.choices:
        known = (*option.choices, *option.forms)
        return ", ".join(f"`{choice}`" for choice in known)
    kind = _KINDS[type(option.default)]
    if option.minimum is not None and option.maximum is not None:
        return f"{kind} in [{option.minimum:g}, {option.maximum:g}]"
    if option.minimum is not None:
        return f"{kind} ≥ {option.minimum:g}"
    return kind


def api_page() -> str:
    """Returns api.md: every name of `imcl_tf.__all__`, by wing."""
    import imcl_tf

    lines = [
        "# Python API",
        "",
        "Everything here is public: `imcl_tf.NAME`. "
        "[In Python](python.md) shows how the names work together.",
    ]
    wings = {wing: [] for wing in WINGS}
    for name in imcl_tf.__all__:
        wings[wing_of(name)].append(name)
    for wing, names in wings.items():
        if names:
            lines += ["", f"## {WINGS[wing]}"]
        for name in names:
            lines += ["", *_entry(name)]
    return "\n".join(lines) + "\n"


def wing_of(name: str) -> str:
    """Returns the wing of a public name, "" for what lies in no wing."""
    wing = _path(name).split(".")[1]
    return wing if wing in WINGS else ""


def _path(name: str) -> str:
    """The dotted path of a public name: where it is defined."""
    import imcl_tf

    value = getattr(imcl_tf, name)
    if isinstance(value, types.ModuleType):
        return value.__name__
    return f"{value.__module__}.{name}"


def _entry(name: str) -> list[str]:
    options = [f"heading: imcl_tf.{name}", f"toc_label: {name}"]
    if name == "methods":  # its function `method` has its own entry
        options.append("members: false")
    lines = [f"::: {_path(name)}", "    options:"]
    return [*lines, *(f"      {option}" for option in options)]
