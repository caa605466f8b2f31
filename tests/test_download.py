"""The downloader against a server that answers in every way there is."""

import base64
import collections
import csv
import fcntl
import hashlib
import http.server
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from data_prep.download import download
from imcl_tf.fetching import Pace
from imcl_tf.manifest import (
    Manifest,
    image_path,
    read_image,
    read_manifest,
)

ROOT = Path(__file__).resolve().parents[1]
HEADER = [
    "ImageID",
    "Subset",
    "OriginalURL",
    "OriginalLandingURL",
    "License",
    "AuthorProfileURL",
    "Author",
    "Title",
    "OriginalSize",
    "OriginalMD5",
    "Thumbnail300KURL",
]
FINAL = {"done", "missing", "corrupt"}
QUICK = {
    "rate": 1e4,
    "parallel": 4,
    "retries": 2,
    "timeout": 20.0,
    "backoff": 0.01,
}


def image_id(number: int) -> str:
    """A different folder for every other image, the top bit included."""
    return f"{number * 0xF1E2D3C4B5A69788 % 2**64:016x}"


def picture(name: str, channels: int = 3) -> bytes:
    """A JPEG of its own for every name."""
    rng = np.random.default_rng(list(name.encode()))
    pixels = rng.integers(0, 256, (24, 32, channels)).astype(np.uint8)
    return tf.io.encode_jpeg(pixels).numpy()


class Server(http.server.ThreadingHTTPServer):
    """Answers /KIND/ID as `Handler` has it, and remembers what was asked.

    Attributes:
      asked: path -> requests.
      times: of all requests, in order.
      gate: requests of /gated/ that may still be answered.
      waiting: those that wait for it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.asked = collections.Counter()
        self.times = []
        self.gate = threading.Semaphore(0)
        self.waiting = 0

    def url(self, kind: str, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/{name}"

    def count(self, name: str) -> int:
        """Requests for an image, of whatever kind."""
        return sum(
            count
            for path, count in self.asked.items()
            if path.endswith(f"/{name}")
        )

    def handle_error(self, *_):
        pass  # of clients that went away


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked[self.path] += 1
            server.times.append(time.monotonic())
            first = server.asked[self.path] == 1
        kind, name = self.path[1:].split("/")
        body = picture(name)
        if kind.startswith("once_"):
            kind = kind.removeprefix("once_") if first else "good"
        if kind == "gated":
            with server.lock:
                server.waiting += 1
            server.gate.acquire()
            with server.lock:
                server.waiting -= 1
        if kind.isdigit():
            self.answer(int(kind), b"sorry")
        elif kind == "busy":
            self.answer(429, b"", {"Retry-After": "1"})
        elif kind == "html":
            self.answer(200, b"<!DOCTYPE html>\n<html>Sign in</html>")
        elif kind == "cut":
            self.answer(200, body[: len(body) // 2])
        elif kind == "broken":
            self.answer(200, body[:100], {"Content-Length": str(len(body))})
            self.close_connection = True
        elif kind == "moved":
            self.answer(302, b"", {"Location": server.url("good", name)})
        elif kind == "circle":
            self.answer(302, b"", {"Location": self.path})
        elif kind == "removed":
            place = server.url("images", "photo_unavailable.png")
            self.answer(302, b"", {"Location": place})
        elif kind == "gray":
            self.answer(200, picture(name, channels=1))
        else:
            self.answer(200, body)

    def answer(self, code, body, headers=()):
        self.send_response(code)
        headers = {"Content-Length": str(len(body))} | dict(headers)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.gate.release(1000)
        server.shutdown()
        thread.join()


def write_images_csv(path, rows):
    """`rows` hold ImageID and what else is not made up."""
    usual = {name: f"some {name}" for name in HEADER} | {
        "Subset": "train",
        "Title": 'A "quoted", two-line\ntitle é',
        "OriginalURL": "",
        "OriginalSize": "",
        "OriginalMD5": "",
        "Thumbnail300KURL": "",
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(usual | row for row in rows)


@pytest.fixture
def listing(server, tmp_path):
    """Writes images.csv with thumbnails of these kinds; returns it, ids."""

    def write(*kinds):
        names = [image_id(n + 1) for n in range(len(kinds))]
        rows = [
            {"ImageID": name, "Thumbnail300KURL": server.url(kind, name)}
            for name, kind in zip(names, kinds, strict=True)
        ]
        write_images_csv(tmp_path / "images.csv", rows)
        return tmp_path / "images.csv", names

    return write


def raw_rows(out):
    """Rows of the manifest as they are: [id, status, reason, bytes]."""
    with (out / "manifest.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image_id", "status", "reason", "bytes"]
    return rows


def files_in(out):
    """Relative name -> bytes, of all but the manifest."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "manifest.csv"
    }


def good_files(names):
    return {f"{name[:2]}/{name}.jpg": picture(name) for name in names}


# What comes of each kind of answer, a word of the reason, requests.
ANSWERS = {
    "good": ("done", "", 1),
    "gray": ("done", "gray", 1),
    "moved": ("done", "", 2),
    "404": ("missing", "HTTP 404", 1),
    "410": ("missing", "HTTP 410", 1),
    "removed": ("missing", "photo_unavailable", 1),
    "html": ("corrupt", "an HTML page, not an image", 1),
    "cut": ("corrupt", "truncated JPEG", 1),
    "once_500": ("done", "", 2),
    "once_503": ("done", "", 2),
    "once_broken": ("done", "", 2),
    "500": ("failed", "HTTP 500", 3),
    "broken": ("failed", "ChunkedEncodingError", 3),
    "403": ("failed", "HTTP 403", 1),
    "circle": ("failed", "TooManyRedirects", 3 * 6),
}


class TestAnswers:
    def test_each_kind(self, server, listing, tmp_path):
        table, names = listing(*ANSWERS)
        out = tmp_path / "new" / "out"
        counts = download(table, out, **QUICK)
        expected = [status for status, _, _ in ANSWERS.values()]
        assert counts == collections.Counter(expected)
        rows = {row[0]: row[1:] for row in raw_rows(out)}
        assert len(rows) == len(raw_rows(out)) == len(ANSWERS)
        for name, (kind, answer) in zip(names, ANSWERS.items(), strict=True):
            status, reason, requests = answer
            assert rows[name][0] == status, kind
            assert reason in rows[name][1], kind
            assert bool(reason) == bool(rows[name][1]), kind
            assert server.count(name) == requests, kind
        done = [n for n in names if rows[n][0] == "done"]
        gray = names[list(ANSWERS).index("gray")]
        files = good_files(done)
        files[f"{gray[:2]}/{gray}.jpg"] = picture(gray, channels=1)
        assert files_in(out) == files
        sizes = {name: len(files[f"{name[:2]}/{name}.jpg"]) for name in done}
        assert {n: int(rows[n][2]) for n in done} == sizes

    def test_only_what_failed_is_asked_again(self, server, listing, tmp_path):
        table, names = listing(*ANSWERS)
        first = download(table, tmp_path / "out", **QUICK)
        server.asked.clear()
        assert download(table, tmp_path / "out", **QUICK) == first
        again = [kind for n, kind in zip(names, ANSWERS, strict=True)
                 if server.count(n)]  # fmt: skip
        assert again == ["500", "broken", "403", "circle"]

    def test_retry_missing(self, server, listing, tmp_path):
        table, names = listing("good", "once_404", "once_html", "410")
        out = tmp_path / "out"
        assert download(table, out, **QUICK) == {
            "done": 1, "missing": 2, "corrupt": 1,
        }  # fmt: skip
        counts = download(table, out, retry_missing=True, **QUICK)
        assert counts == {"done": 3, "missing": 1}
        assert [server.count(name) for name in names] == [1, 2, 2, 2]
        table = read_manifest(out / "manifest.csv").set_index("image_id")
        assert list(table.loc[names, "status"]) == [*["done"] * 3, "missing"]
        assert files_in(out) == good_files(names[:3])

    def test_timeout(self, server, listing, tmp_path):
        table, names = listing("once_gated")
        patient = QUICK | {"timeout": 0.5, "retries": 9}
        counts = download(table, tmp_path / "out", **patient)
        assert counts == {"done": 1}
        assert server.count(names[0]) >= 2

    def test_no_answer_at_all(self, server, listing, tmp_path):
        table, names = listing("gated")
        counts = download(table, tmp_path / "out", **QUICK | {"timeout": 0.1})
        assert counts == {"failed": 1}
        assert raw_rows(tmp_path / "out") == [
            [names[0], "failed", "ReadTimeout", "0"]
        ]

    def test_retry_after_is_waited_for_by_all(self, server, listing, tmp_path):
        kinds = ["once_busy"] + ["good"] * 5
        table, names = listing(*kinds)
        counts = download(table, tmp_path / "out", **QUICK | {"parallel": 1})
        assert counts == {"done": 6}
        assert server.count(names[0]) == 2
        busy, second = server.times[:2]
        assert second - busy > 0.95

    def test_nobody_there(self, listing, server, tmp_path):
        table, names = listing("good")
        text = table.read_text().replace(str(server.server_port), "1")
        table.write_text(text)
        assert download(table, tmp_path / "out", **QUICK) == {"failed": 1}
        assert raw_rows(tmp_path / "out")[0][2] == "ConnectionError"

    @pytest.mark.parametrize("url", ["", "not a url", "ftp://a/b", "http://["])
    def test_no_url(self, tmp_path, url):
        row = {"ImageID": image_id(1), "OriginalURL": url}
        write_images_csv(tmp_path / "images.csv", [row])
        out = tmp_path / "out"
        counts = download(tmp_path / "images.csv", out, **QUICK)
        assert counts == {"missing": 1}


class TestOriginals:
    @pytest.fixture
    def table(self, server, tmp_path):
        """Originals with their right size and MD5; the second has no thumb."""
        rows = []
        for name in map(image_id, (1, 2)):
            body = picture(name)
            md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
            rows.append(
                {
                    "ImageID": name,
                    "OriginalURL": server.url("good", name),
                    "OriginalSize": str(len(body)),
                    "OriginalMD5": md5,
                    "Thumbnail300KURL": server.url("gray", name),
                }
            )
        rows[1]["Thumbnail300KURL"] = ""
        path = tmp_path / "images.csv"
        return path, rows, lambda: write_images_csv(path, rows)

    def test_thumbnail_and_its_stand_in(self, server, table, tmp_path):
        path, rows, write = table
        write()
        assert download(path, tmp_path / "out", **QUICK) == {"done": 2}
        one, two = (row["ImageID"] for row in rows)
        assert dict(server.asked) == {f"/gray/{one}": 1, f"/good/{two}": 1}

    def test_originals(self, server, table, tmp_path):
        path, rows, write = table
        write()
        out = tmp_path / "out"
        assert download(path, out, url="original", **QUICK) == {"done": 2}
        assert set(server.asked) == {f"/good/{row['ImageID']}" for row in rows}

    @pytest.mark.parametrize("url", ["thumbnail", "original"])
    @pytest.mark.parametrize(
        ("column", "value", "reason"),
        [
            ("OriginalSize", "12", "bytes, not 12"),
            ("OriginalMD5", "0Sad+xMj2ttXM1U8meEJ0A==", "wrong MD5 checksum"),
        ],
    )
    def test_checked(self, table, tmp_path, url, column, value, reason):
        path, rows, write = table
        rows[1][column] = value
        write()
        out = tmp_path / "out"
        counts = download(path, out, url=url, **QUICK)
        assert counts == {"done": 1, "corrupt": 1}
        by_name = {row[0]: row for row in raw_rows(out)}
        assert by_name[rows[1]["ImageID"]][2].endswith(reason)
        assert len(files_in(out)) == 1

    def test_nothing_to_check_by(self, table, tmp_path):
        path, rows, write = table
        rows[1] |= {"OriginalSize": "", "OriginalMD5": ""}
        write()
        counts = download(path, tmp_path / "out", url="original", **QUICK)
        assert counts == {"done": 2}


class TestSelection:
    def asked(self, server, names):
        return [bool(server.count(name)) for name in names]

    def test_ids(self, server, listing, tmp_path, caplog):
        table, names = listing(*["good"] * 4)
        ids = tmp_path / "ids.txt"
        ids.write_text(f"{names[2]}\n{'0' * 16}\n{names[0]}\n{names[2]}\n")
        counts = download(table, tmp_path / "out", ids=ids, **QUICK)
        assert counts == {"done": 2}
        assert self.asked(server, names) == [True, False, True, False]
        warning = f"{ids}: 1 images are not in {table}, {'0' * 16} for one"
        assert warning in caplog.text

    def test_annotations(self, server, listing, tmp_path):
        table, names = listing(*["good"] * 4)
        files = tmp_path / "human.csv", tmp_path / "machine.csv"
        for path, name in zip(files, (names[3], names[1]), strict=True):
            row = f"{name},verification,/m/04hgtk,0\n"
            path.write_text("ImageID,Source,LabelName,Confidence\n" + row * 3)
        out = tmp_path / "out"
        assert download(table, out, annotations=files[:1], **QUICK) == {
            "done": 1
        }
        assert self.asked(server, names) == [False, False, False, True]
        both = download(table, out, annotations=files, **QUICK)
        assert both == {"done": 2}
        assert self.asked(server, names) == [False, True, False, True]
        ids = tmp_path / "ids.txt"
        ids.write_text(f"{names[0]}\n{names[1]}\n")
        within = download(table, out, ids=ids, annotations=files, **QUICK)
        assert within == {"done": 1}
        assert server.count(names[0]) == 0

    def test_tables_longer_than_a_block(
        self, server, listing, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("data_prep.download._BLOCK", 2000)
        table, names = listing(*["good"] * 60)
        assert table.stat().st_size > 5 * 2000
        ids = tmp_path / "ids.txt"
        ids.write_text(f"{names[57]}\n{names[30]}\n")
        counts = download(table, tmp_path / "out", ids=ids, **QUICK)
        assert counts == {"done": 2}
        wanted = [n in (30, 57) for n in range(60)]
        assert self.asked(server, names) == wanted
        # The header is row 1.
        text = table.read_text()
        table.write_text(text.replace(f"{names[50]},train", "x,train"))
        with pytest.raises(ValueError, match="row 52: ImageID must"):
            download(table, tmp_path / "out", **QUICK)
        table.write_text(text.replace(f"{names[50]},train", names[50]))
        with pytest.raises(ValueError, match="Row #52: Expected 11 columns"):
            download(table, tmp_path / "out", **QUICK)

    def test_limit_takes_the_first(self, server, listing, tmp_path):
        table, names = listing(*["404", "good", "good", "good"])
        for _ in range(2):
            counts = download(table, tmp_path / "out", limit=2, **QUICK)
            assert counts == {"done": 1, "missing": 1}
        assert self.asked(server, names) == [True, True, False, False]
        counts = download(table, tmp_path / "out", limit=9, **QUICK)
        assert counts == {"done": 3, "missing": 1}

    def test_repeated_ids_count_once(self, server, listing, tmp_path, caplog):
        table, names = listing("good", "good")
        first = table.read_text().partition("\n")[2]
        with table.open("a") as file:
            file.write(first.replace("/good/", "/404/"))
        counts = download(table, tmp_path / "out", **QUICK)
        assert counts == {"done": 2}
        assert f"{table}: 2 rows repeat an id" in caplog.text
        assert len(raw_rows(tmp_path / "out")) == 2

    def test_none(self, listing, tmp_path):
        table, _ = listing("good")
        (tmp_path / "ids.txt").write_text("f" * 16)
        with pytest.raises(ValueError, match="none of the images asked for"):
            download(table, tmp_path / "out", ids=tmp_path / "ids.txt")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda text: "", "Empty"),
            (lambda text: text.replace("OriginalMD5", "MD5"), "OriginalMD5"),
            (lambda text: text + "0123456789abcdef,train\n", "Row #4"),
            (lambda text: text[: text.rindex(",") - 1], "Row #3"),
            (lambda text: text[:-1] + ",more\n", "Row #3"),
            (
                lambda text: text.replace(image_id(2), "../../etc/passwd"),
                "row 3: ImageID must be 16 hexadecimal digits, got '../../etc",
            ),
            (
                lambda text: text.replace(image_id(2), image_id(2).upper()),
                "row 3: ImageID",
            ),
        ],
    )
    def test_bad_listing(self, server, listing, tmp_path, spoil, message):
        table, _ = listing("good", "good")
        text = table.read_text()
        table.write_text(spoil(text))
        with pytest.raises(ValueError) as caught:
            download(table, tmp_path / "out", **QUICK)
        assert str(caught.value).startswith(f"{table}: ")
        assert message in str(caught.value)
        assert not (tmp_path / "out").exists() and not server.asked

    def test_bad_ids(self, listing, tmp_path):
        table, names = listing("good")
        ids = tmp_path / "ids.txt"
        ids.write_text(f"{names[0]}\nImageID\n")
        with pytest.raises(ValueError, match=r"ids.txt: row 2: ImageID must"):
            download(table, tmp_path / "out", ids=ids, **QUICK)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"images\.csv"):
            download(tmp_path / "images.csv", tmp_path / "out")


class TestGoingOn:
    """What a killed program or a crashed machine may have left."""

    @pytest.fixture
    def half(self, server, listing, tmp_path):
        """Three images that are there, and the server's memory wiped."""
        table, names = listing(*["good"] * 3)
        out = tmp_path / "out"
        download(table, out, **QUICK)
        server.asked.clear()
        return table, names, out

    def finish(self, half):
        table, names, out = half
        assert download(table, out, **QUICK) == {"done": 3}
        assert files_in(out) == good_files(names)
        manifest = read_manifest(out / "manifest.csv")
        assert sorted(manifest["image_id"]) == sorted(names)
        assert set(manifest["status"]) == {"done"}

    def test_torn_row(self, server, half):
        manifest = half[2] / "manifest.csv"
        content = manifest.read_bytes()
        for cut in (1, 5, 20):
            manifest.write_bytes(content[:-cut])
            assert len(read_manifest(manifest)) == 2
            self.finish(half)
            # The image was there.
            assert sorted(raw_rows(half[2])) == sorted(
                csv.reader(content.decode().splitlines()[1:])
            )
        assert not server.asked

    def test_torn_header(self, server, half):
        (half[2] / "manifest.csv").write_bytes(b"image_i")
        self.finish(half)
        assert not server.asked

    def test_no_manifest(self, server, half):
        (half[2] / "manifest.csv").unlink()
        self.finish(half)
        assert not server.asked

    def test_row_without_file(self, server, half):
        image_path(half[2], half[1][1]).unlink()
        self.finish(half)
        assert server.asked == {f"/good/{half[1][1]}": 1}

    @pytest.mark.parametrize("with_row", [True, False])
    @pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0"])
    def test_file_that_is_not_whole(self, server, half, with_row, content):
        image_path(half[2], half[1][2]).write_bytes(content)
        if not with_row:
            (half[2] / "manifest.csv").unlink()
        self.finish(half)
        assert server.asked == {f"/good/{half[1][2]}": 1}

    def test_file_of_another_checksum(self, server, tmp_path):
        name = image_id(1)
        body = picture(name)
        row = {
            "ImageID": name,
            "OriginalURL": server.url("good", name),
            "OriginalSize": str(len(body)),
        }
        write_images_csv(tmp_path / "images.csv", [row])
        path = image_path(tmp_path / "out", name)
        path.parent.mkdir(parents=True)
        path.write_bytes(picture("another"))
        download(
            tmp_path / "images.csv", tmp_path / "out", url="original", **QUICK
        )
        assert path.read_bytes() == body

    def test_half_written_images_go_and_nothing_else(self, half):
        table, names, out = half
        torn = image_path(out, names[0]).with_name(
            f".unfinished-{names[0]}.jpg"
        )
        torn.write_bytes(b"half")
        kept = [
            out / ".notes",
            torn.with_name(".hidden"),
            torn.with_name("notes.txt"),
            out / "mine" / f".unfinished-{names[0]}.jpg",
        ]
        for path in kept:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        download(table, out, **QUICK)
        assert not torn.exists()
        assert all(path.read_text() == "mine" for path in kept)

    def test_two_at_once_are_refused(self, server, half):
        table, _, out = half
        before = (out / "manifest.csv").read_bytes()
        with (out / "manifest.csv").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(OSError, match="another program is adding"):
                download(table, out, **QUICK)
        assert (out / "manifest.csv").read_bytes() == before
        self.finish(half)

    def test_full_disk(self, server, listing, tmp_path, small_disk):
        table, names = listing(*["good"] * 8)
        out = tmp_path / "out"
        with small_disk(500), pytest.raises(OSError) as caught:
            download(table, out, **QUICK)
        assert str(out) in str(caught.value)
        assert files_in(out) == {} and raw_rows(out) == []
        assert download(table, out, **QUICK) == {"done": 8}
        assert files_in(out) == good_files(names)

    def test_disk_too_full_for_the_manifest(
        self, listing, tmp_path, small_disk
    ):
        table, names = listing(*["404"] * 40)
        with small_disk(500), pytest.raises(OSError, match="manifest.csv"):
            download(table, tmp_path / "out", **QUICK)
        content = (tmp_path / "out" / "manifest.csv").read_bytes()
        assert 400 < len(content) <= 500 and content.endswith(b"\n")
        assert download(table, tmp_path / "out", **QUICK) == {"missing": 40}


class TestManifest:
    def test_last_row_of_an_image_counts(self, tmp_path):
        path = tmp_path / "manifest.csv"
        one, two = image_id(1), image_id(2)
        with Manifest(path) as manifest:
            manifest.append(one, "failed", "HTTP 500", 0)
            manifest.append(two, "done", 'gray, "odd"', 77)
            manifest.append(one, "corrupt", "several\r\nlines\n", 5)
            # Others may read it meanwhile.
            table = read_manifest(path)
        assert table.to_dict("records") == [
            {
                "image_id": two,
                "status": "done",
                "reason": 'gray, "odd"',
                "bytes": 77,
            },
            {
                "image_id": one,
                "status": "corrupt",
                "reason": "several lines",
                "bytes": 5,
            },
        ]
        assert table["bytes"].dtype == np.int64
        assert isinstance(table["status"].dtype, pd.CategoricalDtype)

    def test_empty(self, tmp_path):
        with Manifest(tmp_path / "manifest.csv"):
            pass
        table = read_manifest(tmp_path / "manifest.csv")
        assert list(table) == ["image_id", "status", "reason", "bytes"]
        assert len(table) == 0

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("0123456789abcdef,lost,,1", "line 3"),
            ("0123456789abcdef,done,,", "line 3"),
            ("0123456789abcdef,done", "line 3"),
            ("../etc,done,,1", "line 3"),
            ("0123456789abcdef,done,,1,2", "line 3"),
        ],
    )
    def test_bad_row(self, tmp_path, row, message):
        path = tmp_path / "manifest.csv"
        good = f"{image_id(1)},done,,12"
        path.write_text(f"image_id,status,reason,bytes\n{good}\n{row}\n")
        with pytest.raises(ValueError, match=message) as caught:
            read_manifest(path)
        assert str(caught.value).startswith(f"{path}: ")

    @pytest.mark.parametrize("content", ["a,b\n1,2\n", "important"])
    def test_other_files_are_left_alone(self, tmp_path, content):
        path = tmp_path / "manifest.csv"
        path.write_text(content)
        with pytest.raises(ValueError, match="not a manifest"):
            Manifest(path)
        assert path.read_text() == content

    def test_where_an_image_lies(self):
        assert image_path("a/b", "0123456789abcdef") == Path(
            "a/b/01/0123456789abcdef.jpg"
        )

    def test_read_from_either_place(self, tmp_path):
        flat, nested = image_id(1), image_id(2)
        (tmp_path / f"{flat}.jpg").write_bytes(b"flat")
        image_path(tmp_path, nested).parent.mkdir()
        image_path(tmp_path, nested).write_bytes(b"nested")
        assert read_image(tmp_path, flat) == b"flat"
        assert read_image(tmp_path, nested) == b"nested"
        with pytest.raises(FileNotFoundError, match=image_id(3)):
            read_image(tmp_path, image_id(3))


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.now = 100.0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


class TestPace:
    def test_rate(self):
        fake = FakeTime()
        pace = Pace(8, fake.clock, fake.sleep)
        begun = []
        for _ in range(81):
            pace.wait()
            begun.append(fake.now)
        # The first at once, the 80 others an eighth of a second apart.
        assert begun[-1] - begun[0] == pytest.approx(10, abs=0.2)
        starts = np.array(begun)
        for start in starts:
            within = (starts >= start) & (starts < start + 1)
            assert within.sum() <= 8 + 2

    def test_time_that_was_not_used_is_not_made_up_for(self):
        fake = FakeTime()
        pace = Pace(8, fake.clock, fake.sleep)
        pace.wait()
        fake.now += 60
        begun = []
        for _ in range(10):
            pace.wait()
            begun.append(fake.now)
        assert begun[-1] - begun[0] >= 1

    def test_pause(self):
        fake = FakeTime()
        pace = Pace(8, fake.clock, fake.sleep)
        pace.wait()
        pace.pause(30)
        pace.pause(5)  # does not shorten the longer one
        pace.wait()
        assert fake.now == pytest.approx(130)

    def test_told_to_stop(self):
        pace = Pace(1e-3, lambda: 0.0, lambda _: True)
        for _ in range(5):
            pace.wait()  # would wait for ever

    def test_of_a_whole_download(self, server, listing, tmp_path):
        table, _ = listing(*["good"] * 20)
        begun = time.monotonic()
        download(table, tmp_path / "out", **QUICK | {"rate": 20.0})
        assert time.monotonic() - begun > 18 / 20


class TestProgram:
    def start(self, table, out, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "data_prep.download"]
            + [f"--images={table}", f"--out={out}", "--rate=1000", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A job in the background, as these tests may be, ignores it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def until_held(self, server, process, number):
        """Waits until so many requests wait at the gate."""
        while server.waiting < number:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)

    def test_killed_and_resumed(self, server, listing, tmp_path):
        table, names = listing(*["gated"] * 30)
        out = tmp_path / "out"
        server.gate.release(12)
        process = self.start(table, out, "--parallel=3")
        self.until_held(server, process, 3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # Each thread has put away what it got before it asked for more.
        there = [n for n in names if image_path(out, n).is_file()]
        assert files_in(out) == good_files(there) and len(there) == 12
        assert sorted(server.asked.values()) == [1] * 15
        server.gate.release(1000)
        assert download(table, out, **QUICK) == {"done": 30}
        twice = {name for name in names if server.count(name) == 2}
        assert server.asked.total() == 33 and len(twice) == 3
        assert twice.isdisjoint(there)
        rows = raw_rows(out)
        assert sorted(row[0] for row in rows) == sorted(names)
        assert {row[1] for row in rows} <= FINAL
        assert files_in(out) == good_files(names)

    def test_interrupted_and_resumed(self, server, listing, tmp_path):
        table, names = listing(*["gated"] * 30)
        out = tmp_path / "out"
        server.gate.release(12)
        process = self.start(table, out, "--parallel=3")
        self.until_held(server, process, 3)
        process.send_signal(signal.SIGINT)
        while "stopping" not in (line := process.stderr.readline()):
            assert line
        server.gate.release(1000)
        _, error = process.communicate()
        assert process.returncode == 1
        assert error == (
            "imcl_tf: error: stopped; the same command goes on from here\n"
        )
        # What was under way was put away.
        assert files_in(out) == good_files(names[:15])
        process = self.start(table, out)
        output, error = process.communicate()
        assert process.returncode == 0, error
        assert output == f"{out}: 30 done, 0 missing, 0 corrupt, 0 failed\n"
        assert [server.count(name) for name in names] == [1] * 30

    def test_some_failed(self, server, listing, tmp_path):
        table, names = listing("good", "500", "404", "html", "good")
        annotations = tmp_path / "annotations.csv"
        annotations.write_text(
            "ImageID,Source,LabelName,Confidence\n"
            + "".join(f"{name},human,/m/1,1\n" for name in names[:4])
        )
        process = self.start(
            table,
            tmp_path / "out",
            f"--annotations={annotations}",
            "--retries=0",
        )
        output, error = process.communicate()
        assert process.returncode == 1
        summary = "1 done, 1 missing, 1 corrupt, 1 failed"
        assert output == f"{tmp_path / 'out'}: {summary}\n"
        assert "0 of 4 images" in error
        assert error.splitlines()[-1] == (
            f"imcl_tf: error: 1 images failed, for reasons in "
            f"{tmp_path / 'out'}/manifest.csv; the same command tries them "
            "again"
        )
