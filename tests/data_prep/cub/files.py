"""A small CUB-200-2011 in the genuine formats, and a reader line by line."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow as tf

from data_prep import cub
from imcl_tf.data import builders

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "data" / "raw" / "cub" / "CUB_200_2011"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no genuine files")
SPLITS = ("train", "validation", "test")
IMAGES, CLASSES, ATTRIBUTES = 60, 3, 312
TRAINING = 40  # of both ways to split
PREFIX = "/BS/Deep_Fragments/work/MSc/CUB_200_2011/CUB_200_2011/images/"
ARCHIVE = "CUB_200_2011/"
LABELS = ARCHIVE + "attributes/image_attribute_labels.txt"


def write_attribute_labels(path, num_images, seed=0):
    """All pairs, in the genuine format: some rows have one or two extra columns
    (as image 2275, attribute 10, in the archive)."""
    rng = np.random.default_rng(seed)
    bodies = []
    for _ in range(97):  # an image's rows, without its id
        present = rng.random(ATTRIBUTES) < 0.1
        certainties = rng.integers(1, 5, ATTRIBUTES)
        times = rng.random(ATTRIBUTES) * 20
        bodies.append(
            "".join(
                f"@ {a + 1} {int(present[a])} {certainties[a]} {times[a]:.3f}\n"
                for a in range(ATTRIBUTES)
            )
        )
    with path.open("w") as file:
        for image in range(1, num_images + 1):
            body = bodies[image % len(bodies)]
            if image % 7 == 3:
                body = body.replace("\n", " 1.509\n", 3)
                body = body.replace("\n@ 10 ", " 0  2.5\n@ 10 ")
            file.write(body.replace("@", str(image)))


def write_mat(directory, order, trainval, test_seen, test_unseen, dtype=float):
    """att_splits.mat and res101.mat, as of the benchmark.

    Args:
      directory: made.
      order: image names in the order of the features.
      trainval: names.
      test_seen: names.
      test_unseen: names.
      dtype: of the row numbers; MATLAB stores small integers as such.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cells = np.empty((len(order), 1), object)
    cells[:, 0] = [PREFIX + name for name in order]
    scipy.io.savemat(
        directory / "res101.mat",
        {
            "features": np.zeros((4, len(order))),
            "image_files": cells,
            "labels": np.ones((len(order), 1)),
        },
        do_compression=True,
    )
    rows = {name: row for row, name in enumerate(order, 1)}

    def column(names):
        return np.array([[rows[name]] for name in names], dtype).reshape(-1, 1)

    seen = [*trainval, *test_seen]
    scipy.io.savemat(
        directory / "att_splits.mat",
        {
            "att": np.zeros((ATTRIBUTES, 200)),
            "trainval_loc": column(trainval),
            "test_seen_loc": column(test_seen),
            "test_unseen_loc": column(test_unseen),
            "train_loc": column(seen[: len(seen) // 2]),
            "val_loc": column(seen[len(seen) // 2 :]),
        },
        do_compression=True,
    )


def write_raw(raw: Path):
    """A small CUB with all 312 attributes, both kinds of splits and images."""
    rng = np.random.default_rng(1)
    directory = raw / "CUB_200_2011"
    (directory / "attributes").mkdir(parents=True)
    classes = [f"{c:03d}.Bird_{c}" for c in range(1, CLASSES + 1)]
    # The file names of the archive do not follow its ids.
    numbers = rng.permutation(IMAGES).tolist()
    of_image = [n * CLASSES // IMAGES for n in range(IMAGES)]
    names = [
        f"{classes[c]}/Bird_{c}_{n:04d}.jpg"
        for c, n in zip(of_image, numbers, strict=True)
    ]
    for name in names:
        path = directory / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
        path.write_bytes(tf.io.encode_jpeg(pixels).numpy())
    training = set(rng.permutation(IMAGES)[:TRAINING].tolist())
    for path, values in {
        directory / "classes.txt": classes,
        directory / "images.txt": names,
        directory / "image_class_labels.txt": [c + 1 for c in of_image],
        directory / "train_test_split.txt": [
            int(n in training) for n in range(IMAGES)
        ],
        raw / "attributes.txt": [f"has_x::{n}_(y)" for n in range(ATTRIBUTES)],
    }.items():
        lines = [f"{i} {value}\n" for i, value in enumerate(values, 1)]
        path.write_text("".join(lines))
    write_attribute_labels(raw / LABELS, IMAGES)
    lines = (raw / LABELS).read_text().splitlines(keepends=True)
    del lines[5 * ATTRIBUTES : 6 * ATTRIBUTES]  # image 6 has none
    del lines[100:103]
    (raw / LABELS).write_text("".join(lines))
    unseen = names[50:]  # within the third class
    shuffled = rng.permutation(names[:50]).tolist()
    write_mat(
        raw / "xlsa17" / "data" / "CUB", sorted(names),
        shuffled[:TRAINING], shuffled[TRAINING:], unseen,
    )  # fmt: skip


def oracle(raw: Path):
    """Reads the text files line by line, without any library.

    Returns:
      names of classes and attributes, and image name -> class number, signs
      and certainties of its attributes (0 = unobserved), is training.
    """

    def pairs(path):
        with path.open() as file:
            return dict(line.split() for line in file)

    directory = raw / "CUB_200_2011"
    names = pairs(directory / "images.txt")
    class_of = {
        names[i]: int(c) - 1
        for i, c in pairs(directory / "image_class_labels.txt").items()
    }
    signs = {name: [0] * ATTRIBUTES for name in names.values()}
    certainties = {name: [0] * ATTRIBUTES for name in names.values()}
    with (raw / LABELS).open() as file:
        for line in file:
            image, attribute, present, certainty = line.split()[:4]
            name, column = names[image], int(attribute) - 1
            signs[name][column] = 1 if present == "1" else -1
            certainties[name][column] = int(certainty)
    training = {
        names[i]: t == "1"
        for i, t in pairs(directory / "train_test_split.txt").items()
    }
    return (
        list(pairs(directory / "classes.txt").values()),
        list(pairs(raw / "attributes.txt").values()),
        class_of, signs, certainties, training,
    )  # fmt: skip


def snapshot(directory):
    """Path -> bytes of every file below `directory`."""
    return {
        path.relative_to(directory): path.read_bytes()
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file()
    }


def prepare(raw, data_dir, split_file="", config="zero_shot", **kwargs):
    builder = cub.cub_builder(raw, split_file, config=config, data_dir=data_dir)
    return builders.prepare(builder, raw, **kwargs)


def written(out):
    """Files there, but TFDS's note which config is the default."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return [path for path in files if path.parent.name != ".config"]


def fails(raw, *words, error=ValueError, **kwargs):
    """Preparing fails in one line with `words` and leaves no file behind."""
    out = raw.parent / "out"
    with pytest.raises(error) as caught:
        prepare(raw, out, **kwargs)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert len(message.splitlines()) == 1 and len(message) < 500
    assert not written(out)


def replace_line(path, number, new):
    """Replaces a line, counted from 1, by what may be none or several."""
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1 : number] = [line + "\n" for line in new]
    path.write_text("".join(lines))
