"""From annotations and images to records."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from eval.benchmark.measure import (
    LABELS,
    LABELS_PER_IMAGE,
    Figure,
    call,
    measure,
    ratio,
)
from imcl_tf.data.records import SPLITS, read_labels


def records(scale: float, repeats: int) -> list[Figure]:
    """From annotations and images to records, by data_prep.open_images."""
    with tempfile.TemporaryDirectory() as scratch:
        raw, data = Path(scratch, "raw"), Path(scratch, "data")
        _write_open_images(raw, max(int(1e6 * scale), 100))
        built, copied = [], []
        for _ in range(repeats):
            shutil.rmtree(data, ignore_errors=True)
            built.append(
                measure(
                    "-m", "data_prep.open_images",
                    f"--raw_dir={raw}", f"--data_dir={data}",
                )
            )  # fmt: skip
            files = sorted(map(str, data.rglob("*.tfrecord*")))
            copied.append(call(copy_images, str(raw / "images"), len(files)))
        size, labels = _label_bytes(sorted(data.rglob("labels-*.npz")))
    return [
        Figure("label on disk", size / labels, "bytes", 12),
        Figure(
            "rows to records", statistics.median(r.seconds for r in built),
            "s", 60,
        ),
        Figure("peak memory", max(r.peak for r in built) / 1e9, "GB", 2),
        ratio("time to that of copying the images", built, copied),
    ]  # fmt: skip


def _write_open_images(raw: Path, rows: int):
    """Raw files of three splits, `rows` annotations in all."""
    rng = np.random.default_rng(0)
    raw.mkdir()
    mids = np.array([f"/m/{number:05x}" for number in range(LABELS)])
    (raw / "classes-trainable.txt").write_text("\n".join(mids) + "\n")
    (raw / "class-descriptions.csv").write_text(
        "".join(f"{mid},label {j}\n" for j, mid in enumerate(mids))
    )
    pictures = [
        tf.io.encode_jpeg(pixels).numpy()
        for pixels in rng.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    ]
    shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
    for split in SPLITS:
        number = max(int(rows * shares[split]) // LABELS_PER_IMAGE, 1)
        ids = [f"{i:016x}" for i in rng.integers(0, 2**63, number).tolist()]
        labels = rng.integers(0, LABELS, (number, LABELS_PER_IMAGE))
        values = rng.integers(0, 2, labels.shape)
        (raw / split).mkdir()
        with (raw / split / "annotations-human.csv").open("w") as file:
            file.write("ImageID,Source,LabelName,Confidence\n")
            for image, js, present in zip(ids, labels, values, strict=True):
                file.writelines(
                    f"{image},verification,{mid},{value}\n"
                    for mid, value in zip(mids[js], present, strict=True)
                )
        for i, image in enumerate(ids):
            directory = raw / "images" / split / image[:2]
            directory.mkdir(parents=True, exist_ok=True)
            picture = pictures[i % len(pictures)]
            (directory / f"{image}.jpg").write_bytes(picture)


def copy_images(directory: str, number: int):
    """Writes the images below `directory` to `number` TFRecord files."""
    paths = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(directory)
        for name in names
    ]
    with tempfile.TemporaryDirectory() as out:
        for i in range(number):
            with tf.io.TFRecordWriter(f"{out}/{i}") as writer:
                for path in paths[i::number]:
                    writer.write(Path(path).read_bytes())


def _label_bytes(tables: list[Path]) -> tuple[int, int]:
    """(bytes, number) of all labels: the tables with image ids and names."""
    size = sum(path.stat().st_size for path in tables)
    labels = sum(read_labels(path).labels.nnz for path in tables)
    return size, labels
