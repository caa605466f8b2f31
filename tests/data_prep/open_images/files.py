"""Open Images v3 in the genuine formats, and a reader line by line."""

import collections
import csv
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data_prep import open_images
from imcl_tf.data import builders
from imcl_tf.data.manifest import image_path
from tests.data.common import dense, label_table, parsed, raw_records

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data" / "raw" / "open_images"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no genuine files")
SIZES = {"train": 40, "validation": 12, "test": 15}  # images
SPLITS = tuple(SIZES)
TRAINED, DESCRIBED = 5000, 6000
HEADER = "ImageID,Source,LabelName,Confidence"
AMBIGUOUS = ("/m/00001", "/m/00003", "/m/00004")  # called Crane, all of them
STRANGE = "/m/unknown"


def mid(number):
    return f"/m/{number:05x}"


def write_rows(path, rows, header=HEADER):
    """Rows are lists of fields."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def read_rows(path):
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def write_images(directory, ids, seed=0, flat=False):
    rng = np.random.default_rng(seed)
    for image in ids:
        path = image_path(directory, image)
        if flat:
            path = directory / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())


def human_rows(rng, ids):
    """About 12 rows an image: other classes, repeated and contradicted ones."""
    sources = ("verification", "crowdsource-verification")
    rows = []
    for image in ids:
        for number in rng.choice(DESCRIBED, 12, replace=False).tolist():
            source, value = sources[number % 2], int(rng.integers(2))
            rows.append((image, source, mid(number), value))
            kind = rng.integers(10)
            if kind == 0:
                rows.append((image, sources[1], mid(number), value))
            elif kind == 1:
                rows.append((image, sources[0], mid(number), 1 - value))
        if rng.integers(5) == 0:
            rows.append((image, sources[0], STRANGE, 1))
    return [rows[i] for i in rng.permutation(len(rows))]


def machine_rows(rng, human, strangers):
    """Of what humans judged, of other labels and of other images."""
    rows = []
    for image, _, label, _ in human[: len(human) // 2]:
        rows.append((image, "machine", label, f"{rng.random():.1f}"))
        other = mid(rng.integers(DESCRIBED))
        rows += [(image, "machine", other, f"{rng.random():.1f}")] * 2
    for image in strangers:
        rows.append((image, "machine", mid(rng.integers(TRAINED)), "0.5"))
        rows.append((image, "machine", mid(rng.integers(TRAINED)), "0.4"))
    return [rows[i] for i in rng.permutation(len(rows))]


def write_classes(raw):
    """As in the archive: sorted as text, names in quotes where need be."""
    mids = sorted(map(mid, range(DESCRIBED)))
    names = {m: f"Class {m[3:]}" for m in mids}
    names |= dict.fromkeys(AMBIGUOUS, "Crane") | {mid(5): "Goose, wild"}
    with (raw / "class-descriptions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(names.items())
    first = {*AMBIGUOUS, mid(5)}
    trained = sorted({*first, *mids[len(first) - TRAINED :]})
    (raw / "classes-trainable.txt").write_text("\n".join(trained) + "\n")


def write_raw(raw):
    """Everything at 5,000 labels, with machine annotations of new images."""
    write_classes(raw)
    rng = np.random.default_rng(7)
    for split, size in SIZES.items():
        (raw / split).mkdir()
        numbers = rng.integers(0, 2**64, size + 3, np.uint64).tolist()
        ids = [f"{number:016x}" for number in numbers]
        human = human_rows(rng, ids[:size])
        write_rows(raw / split / "annotations-human.csv", human)
        write_rows(
            raw / split / "annotations-machine.csv",
            machine_rows(rng, human, ids[size:]),
        )
        write_images(raw / "images" / split, ids, flat=split == "test")


def oracle_classes(raw):
    """Trained machine ids in order, and name of every described one."""
    with (raw / "class-descriptions.csv").open(newline="") as file:
        names = dict(csv.reader(file))
    return (raw / "classes-trainable.txt").read_text().split(), names


def oracle(raw, split, machine=False):
    """Image -> machine id -> sign, and how many rows were of which kind.

    Line by line, with dictionaries alone.
    """
    trained, names = oracle_classes(raw)
    trained = set(trained)
    counts = collections.Counter()
    judged, guessed = {}, {}
    files = [("human", "annotations", judged)]
    if machine:
        files.append(("machine", "machine annotations", guessed))
    for kind, what, found in files:
        for image, _, label, confidence in read_rows(
            raw / split / f"annotations-{kind}.csv"
        ):
            counts[what] += 1
            if label not in trained:
                other = "other classes" if label in names else "unknown MIDs"
                counts[f"{what} of {other}"] += 1
            elif kind == "machine" and float(confidence) < 0.5:
                counts[f"{what} of too little confidence"] += 1
            else:
                sign = 1 if float(confidence) else -1
                signs = found.setdefault((image, label), set())
                counts["annotations given more than once"] += sign in signs
                signs.add(sign)
    labels = {}
    for (image, label), signs in judged.items():
        if len(signs) == 1:
            labels.setdefault(image, {})[label] = min(signs)
        else:
            counts["contradicted labels, left unobserved"] += 1
    for image, label in guessed:
        if (image, label) in judged:
            counts["machine annotations that a human judged"] += 1
        else:
            labels.setdefault(image, {})[label] = 1
    return labels, +counts


def shards(builder, tables=True):
    """File name -> bytes of the records and of the label tables."""
    return {
        path.name: path.read_bytes()
        for path in Path(str(builder.data_path)).iterdir()
        if "tfrecord" in path.name or (tables and path.suffix == ".npz")
    }


def prepare(raw, place, config="human", on_bad_image="error", **options):
    builder = open_images.OpenImages(
        config=config, data_dir=str(place), on_bad_image=on_bad_image
    )
    return builders.prepare(builder, raw, **options)


def fails(raw, place, *words, error=ValueError, **options):
    """Preparing fails in one line with `words` and leaves no file behind."""
    with pytest.raises(error) as caught:
        prepare(raw, place, **options)
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    assert len(message.splitlines()) == 1 and len(message) < 400
    assert not files_in(place)


def files_in(place):
    """All files but the name of the default config, which TFDS writes first."""
    paths = [p for p in Path(place).rglob("*") if p.is_file()]
    return [path for path in paths if path.parent.name != ".config"]


def check_records(builder, raw, machine=False, without=()):
    """All images, their bytes and their labels, but for those left out."""
    mids, _ = oracle_classes(raw)
    assert builder.info.metadata["mids"] == mids
    for split in SPLITS:
        labels, _ = oracle(raw, split, machine)
        records = [parsed(r) for r in sum(raw_records(builder, split), [])]
        ids = [record["image_id"][0].decode() for record in records]
        assert len(ids) == builder.info.splits[split].num_examples
        assert sorted(ids) == sorted(set(labels) - set(without))
        table = label_table(builder, split)
        assert [x.decode() for x in table["image_ids"]] == ids
        expected = [[labels[i].get(m, 0) for m in mids] for i in ids]
        np.testing.assert_array_equal(dense(table), expected)
        for image, record in zip(ids, records, strict=True):
            (path,) = (raw / "images" / split).rglob(f"{image}.jpg")
            assert record["image"] == [path.read_bytes()]
