"""Labels for image files, from Python and from the program."""

import csv
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import imcl_tf
from imcl_tf import main as train_program
from imcl_tf import predict, program
from imcl_tf.data.decoding import decode_stored
from imcl_tf.data.images import inspect
from imcl_tf.data.pixels import resized
from imcl_tf.training.export import export
from imcl_tf.training.prediction import predict_each, predict_images
from tests.data.pictures import RGB, RGBA, animation, file_of, jpeg, sources

S = 32
LABELS = ("sea", "a, b", "über")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    backbone = imcl_tf.backbone("small_cnn", image_size=S)
    model = imcl_tf.MultiLabelModel(backbone, len(LABELS))
    model.build((None, S, S, 3))
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "saved_model"
    export(model, path, LABELS)
    return path


@pytest.fixture
def images(tmp_path):
    """Good files and bad ones among them, in order -> problem or ""."""
    content = {
        "a.jpg": (jpeg(), ""),
        "bad.jpg": (b"no image", "cannot be decoded as JPEG, PNG, WebP, BMP"),
        "b.png": (file_of(255 - RGB, "PNG"), ""),
        "cut.jpg": (jpeg()[:300], "truncated JPEG"),
        "moves.webp": (animation("WEBP"), "an animated WebP"),
        "c.webp": (file_of(RGBA, "WEBP"), ""),
    }
    result = {}
    for name, (encoded, problem) in content.items():
        (tmp_path / name).write_bytes(encoded)
        result[tmp_path / name] = problem
    (tmp_path / "directory").mkdir()
    result[tmp_path / "directory"] = "a directory; image files expected"
    result[tmp_path / "gone.jpg"] = "no such image file"
    return result


def good(images):
    return [path for path, problem in images.items() if not problem]


def test_pixels_are_those_of_training(model, exported, tmp_path):
    """Files of every kind, turned or not, through a record."""
    files = []
    for number, encoded in enumerate(sources()):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(encoded)
    probabilities, labels = predict_images(exported, files, batch_size=5)
    stored = [inspect(encoded).stored for encoded in sources()]
    seen = tf.stack([resized(decode_stored(x), S) for x in stored])
    expected = tf.sigmoid(model(seen))
    assert tuple(labels) == LABELS
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


class TestPredictImages:
    def test_the_first_bad_one_is_named(self, exported, images):
        files = list(images)
        with pytest.raises(ValueError, match=r"bad\.jpg: cannot be decoded"):
            predict_images(exported, files)
        with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such"):
            predict_images(exported, files[:1] + files[-1:])
        with pytest.raises(IsADirectoryError, match="directory: a directory"):
            predict_images(exported, files[-2:-1])

    @pytest.mark.parametrize("wrap", [str, bytes, lambda x: x])
    def test_a_path_in_place_of_a_list(self, exported, images, wrap):
        path = wrap(os.fsencode(good(images)[0]) if wrap is bytes
                    else good(images)[0])  # fmt: skip
        with pytest.raises(ValueError, match="a list of paths, got .*a.jpg"):
            predict_images(exported, path)

    def test_whatever_yields_paths(self, exported, images):
        expected, _ = predict_images(exported, good(images))
        found, _ = predict_images(exported, (path for path in good(images)))
        np.testing.assert_array_equal(found, expected)

    def test_a_name_that_cannot_be(self, exported):
        with pytest.raises(OSError, match="a\0b: embedded null byte"):
            predict_images(exported, ["a\0b"])

    @pytest.mark.parametrize(
        "name", ["saved_model.pb", "variables/variables.data-00000-of-00001"]
    )
    @pytest.mark.parametrize("size", [0, 700])
    def test_damaged_model(self, exported, images, tmp_path, name, size):
        place = shutil.copytree(exported, tmp_path / "model")
        os.truncate(place / name, size)
        with pytest.raises(
            OSError, match="model: a damaged model: ."
        ) as caught:
            predict_images(place, good(images))
        assert "\n" not in str(caught.value)

    def test_nothing_to_do(self, exported, images):
        with pytest.raises(ValueError, match="no image given"):
            predict_images(exported, [])
        with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
            predict_images(exported, good(images), 0)

    def test_no_model(self, images, tmp_path):
        files = good(images)
        for place in (tmp_path / "nowhere", tmp_path, files[0]):
            with pytest.raises(FileNotFoundError, match="no exported model"):
                predict_images(place, files)
        tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
        with pytest.raises(ValueError, match="serving_default"):
            predict_images(tmp_path / "other", files)
        with pytest.raises(ValueError, match="serving_default, got 3"):
            predict_images(3, files)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_each_is_labelled_or_has_its_error(exported, images, batch_size):
    expected, _ = predict_images(exported, good(images))
    expected = iter(expected)
    found = list(predict_each(exported, list(images), batch_size))
    assert [x.file for x in found] == list(images)
    for prediction, problem in zip(found, images.values(), strict=True):
        if problem:
            message = str(prediction.error)
            assert message.startswith(f"{prediction.file}: {problem}")
            assert not prediction.probabilities.size
        else:
            assert prediction.error is None
            np.testing.assert_allclose(
                prediction.probabilities, next(expected), rtol=1e-5
            )


class TestProgram:
    @pytest.fixture
    def call(self, exported, monkeypatch, capsys):
        """Runs the program: exit status, lines of stdout and of stderr."""
        monkeypatch.setattr(program, "end_with_the_reader", lambda: None)

        def call(*arguments, model=exported):
            predict.FLAGS.unparse_flags()
            for option in predict.OPTIONS:
                predict.FLAGS[option.name].value = option.default
            status = 0
            try:
                predict.main(
                    predict.parse_flags(
                        ["predict", f"--model={model}", *map(str, arguments)]
                    )
                )
            except SystemExit as ended:
                status = ended.code
            out, err = capsys.readouterr()
            return status, out.splitlines(), err.splitlines()

        return call

    def test_labels_what_it_can_and_names_the_rest(
        self, call, exported, images, tmp_path
    ):
        table = tmp_path / "out.csv"
        status, out, err = call(
            "--top=2", "--batch_size=2", f"--csv={table}", *images
        )
        assert status == 1
        bad = {path: text for path, text in images.items() if text}
        for line, (path, problem) in zip(err, bad.items(), strict=True):
            assert line.startswith(f"imcl_tf: error: {path}: {problem}")
        expected, _ = predict_images(exported, good(images))
        assert out[::3] == [str(path) for path in good(images)]
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [(row["image"], row["label"]) for row in rows] == [
            (str(path), label) for path in good(images) for label in LABELS
        ]
        written = [float(row["probability"]) for row in rows]
        np.testing.assert_allclose(written, expected.ravel(), atol=1e-6)
        for n, row in enumerate(expected):
            for line, j in zip(
                out[3 * n + 1 : 3 * n + 3], np.argsort(-row), strict=False
            ):
                assert line == f"  {row[j]:.3f}  {LABELS[j]}"

    def test_all_good(self, call, images):
        status, out, err = call(*good(images))
        assert (status, err) == (0, [])
        assert len(out) == 3 * (1 + len(LABELS))

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("missing/out.csv", "cannot be written: No such file or directory"),
            ("directory", "a directory; a file expected"),
            ("a.jpg/out.csv", "cannot be written: Not a directory"),
            ("pipe", "a device or pipe; a file expected"),
        ],
    )
    def test_csv_is_checked_first(
        self, call, images, tmp_path, monkeypatch, name, words
    ):
        monkeypatch.setattr(tf.saved_model, "load", None)  # the work
        os.mkfifo(tmp_path / "pipe")
        status, out, err = call(f"--csv={tmp_path / name}", *images)
        assert (status, out) == (1, [])
        assert err == [f"imcl_tf: error: --csv={tmp_path / name}: {words}"]
        assert (tmp_path / "directory").is_dir()

    def test_a_name_that_is_no_text(self, call, images, tmp_path):
        """It is named, and the table holds the others."""
        sys.stderr.reconfigure(errors="backslashreplace")  # as outside pytest
        path, table = good(images)[0], tmp_path / "out.csv"
        odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
        shutil.copy(path, odd)
        status, out, err = call(f"--csv={table}", odd, path)
        assert status == 1 and out[0] == str(path)
        (line,) = err
        assert line.startswith(f"imcl_tf: error: {tmp_path}/\\udcff.jpg: ")
        assert line.endswith("its name is not UTF-8, as --csv is")
        rows = table.read_text("utf-8").splitlines()
        assert len(rows) == 1 + len(LABELS)

    def test_no_model(self, call, images, tmp_path):
        status, out, err = call(*images, model=tmp_path)
        assert (status, out) == (1, [])
        (line,) = err
        assert f"{tmp_path}: no exported model; expected a dir" in line
        status, _, (line,) = call(*images, model="")
        assert status == 1 and "--model must name" in line
        status, _, (line,) = call()
        assert status == 1 and "no image given" in line

    def test_has_flags_of_its_own(self, call, images):
        """Beside those of training in one process."""
        train_program.define_flags()
        before = flags.FLAGS["batch_size"].value
        assert call("--batch_size=7", *good(images))[0] == 0
        assert predict.FLAGS.batch_size == 7
        assert flags.FLAGS["batch_size"].value == before == 32
        assert "top" not in flags.FLAGS and "workdir" not in predict.FLAGS


def test_a_flag_that_is_no_option_is_no_option():
    values = flags.FlagValues()
    program.define(predict.OPTIONS, values)
    program.define(predict.OPTIONS, values)  # the same ones, no matter
    values = flags.FlagValues()
    flags.DEFINE_string("top", "", "Something else.", flag_values=values)
    with pytest.raises(flags.DuplicateFlagError, match="top"):
        program.define(predict.OPTIONS, values)


@pytest.mark.parametrize("module", ["imcl_tf.main", "imcl_tf.predict"])
def test_help_into_a_closed_pipe(module):
    """As `--help | head -1`, where head has its line and is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        stdout=writing, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("/usr/bin/imcl-predict", "imcl-predict"),
        ("/x/imcl_tf/predict.py", "python -m imcl_tf.predict"),
    ],
)
def test_usage_names_the_program_as_it_was_called(
    monkeypatch, capsys, command, usage
):
    monkeypatch.setattr(program, "end_with_the_reader", lambda: None)
    with pytest.raises(SystemExit) as ended:
        predict.parse_flags([command, "--help"])
    assert ended.value.code == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.match(rf"usage: {re.escape(usage)} --model=DIR", first)
