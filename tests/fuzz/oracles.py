"""What tables and JSON say, by Python's csv and json modules alone."""

import csv
import io
import json
import re
import unicodedata

DELIMITERS = ",;\t|"
_WORDS = {"": 0, "nan": 0, "true": 1, "false": -1}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE)


def decoded(content: bytes) -> str:
    """The text of a file."""
    is_utf_16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return content.decode("utf-16" if is_utf_16 else "utf-8-sig", "replace")


def clean(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip().strip("\ufeff").strip())


def tables(content: bytes):
    """Yields the rows of a table by each delimiter that it may have."""
    text, delimiters = decoded(content), DELIMITERS
    if found := _SEPARATOR_LINE.match(text):
        text, delimiters = text[found.end() :], found[1]
    for delimiter in delimiters:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter,
            skipinitialspace=True,
        )
        try:
            yield [row for row in reader if any(row)]
        except csv.Error:
            continue


def cleaned(rows) -> list[list[str]]:
    """Rows with text, stripped, without what is empty at their ends."""
    rows = [[clean(cell) for cell in row] for row in rows]
    for row in rows:
        while row and not row[-1]:
            row.pop()
    return [row for row in rows if row]


def labels(rows, zero: str, separator: str) -> list[tuple[str, str, int]]:
    """(image, label, value) of each pair that a table lists.

    Args:
      rows: the header first.
      zero: "absent", "unobserved" or "unset": what 0 is.
      separator: of lists.
    """
    header = [clean(name) for name in rows[0]]
    lower = [name.lower() for name in header]
    rows = [[*row, *[""] * (len(header) - len(row))] for row in rows[1:]]

    def column(name):
        return [row[lower.index(name)] for row in rows]

    is_open_images = {"imageid", "labelname"} <= {*lower}
    if is_open_images:
        long = [*map(column, ("imageid", "labelname", "confidence"))]
    elif {"label", "value"} & {*lower}:
        long = [*map(column, ("image", "label", "value"))]
    elif "labels" in lower:
        return [
            (clean(image), clean(label), 1)
            for image, text in zip(
                column("image"), column("labels"), strict=True
            )
            for label in text.split(separator)
            if clean(label)
        ]
    else:
        means = {"unobserved": 0}.get(zero, -1)
        return [
            (clean(image), name, value(cell, means))
            for image, row in zip(column("image"), rows, strict=True)
            for name, cell in zip(header, row, strict=False)
            if name and name.lower() != "image"
            and clean(cell).lower() not in ("", "nan")
        ]  # fmt: skip
    means = {"absent": -1, "unobserved": 0, "unset": -is_open_images}[zero]
    return [
        (clean(image), clean(label), value(cell, means))
        for image, label, cell in zip(*long, strict=True)
        if clean(label)
    ]


def value(cell: str, zero: int) -> int:
    """-1, 0 or 1; `zero` is what 0 means."""
    cell = clean(cell).replace("\u2212", "-").lower()
    if cell in _WORDS:
        return _WORDS[cell]
    return {-1.0: -1, 0.0: zero, 1.0: 1}[float(cell)]


def loaded(content: bytes):
    """What JSON holds; an AssertionError if a key is there twice."""

    def once(pairs):
        assert len(dict(pairs)) == len(pairs), "a key is given twice"
        return dict(pairs)

    return json.loads(decoded(content), object_pairs_hook=once)


def coco(content: bytes) -> set[tuple[str, str]]:
    """(image, label) of all pairs that COCO's JSON lists."""
    found = loaded(content)
    images = {x["id"]: clean(x["file_name"]) for x in found["images"]}
    if "categories" in found:
        names = {x["id"]: clean(x["name"]) for x in found["categories"]}
        return {
            (images[x["image_id"]], names[x["category_id"]])
            for x in found["annotations"]
        }
    return {
        (images[x["image_id"]], word)
        for x in found["annotations"]
        for word in re.findall(r"[^\W_]+", x["caption"].lower())
    }


def csv_rows(content: bytes) -> list[list[str]]:
    """The rows of a table with commas, fields as long as they may be."""
    text = decoded(content)
    limit = csv.field_size_limit(len(text) + 1)
    try:
        return [*csv.reader(io.StringIO(text, newline=""))]
    finally:
        csv.field_size_limit(limit)


def csv_records(content: bytes) -> list[dict[str, str]]:
    """The same, of each row column -> cell."""
    header, *rows = filter(None, csv_rows(content))
    return [dict(zip(header, row, strict=False)) for row in rows]
