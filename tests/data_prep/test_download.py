"""The downloader against a server that answers in every way there is."""

import base64
import collections
import hashlib

import pytest

from data_prep.download import download
from imcl_tf.data.manifest import read_manifest
from tests.data_prep.image_server import (
    QUICK,
    files_in,
    good_files,
    image_id,
    picture,
    raw_rows,
    write_images_csv,
)

# What comes of each kind of answer, a word of the reason, requests.
ANSWERS = {
    "good": ("done", "", 1),
    "gray": ("done", "gray", 1),
    "moved": ("done", "", 2),
    "404": ("missing", "HTTP 404", 1),
    "410": ("missing", "HTTP 410", 1),
    "removed": ("missing", "photo_unavailable", 1),
    "html": ("failed", "an HTML page, not an image", 1),
    "empty": ("failed", "empty file", 1),
    "nowhere": ("failed", "ValueError: Invalid", 1),
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
        assert again == [
            "html", "empty", "nowhere", "500", "broken", "403", "circle"
        ]  # fmt: skip

    def test_retry_missing(self, server, listing, tmp_path):
        table, names = listing("good", "once_404", "once_cut", "410")
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

    @pytest.mark.parametrize("proxy", ["http://:3128", "http:///proxy"])
    def test_malformed_proxy(
        self, server, listing, tmp_path, monkeypatch, proxy
    ):
        """Says nothing of any image: nothing is noted, it ends at once."""
        table, names = listing(*["good"] * 3)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(ValueError, match="HTTP_PROXY.* malformed proxy"):
            download(table, tmp_path / "out", **QUICK)
        assert raw_rows(tmp_path / "out") == []
        monkeypatch.delenv("http_proxy")
        assert download(table, tmp_path / "out", **QUICK) == {"done": 3}


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
            ("OriginalSize", "12", "expected 12 bytes, got "),
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
        assert reason in by_name[rows[1]["ImageID"]][2]
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
        warning = f"{ids}: 1 images are not in {table}, for example {'0' * 16}"
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
        with pytest.raises(ValueError, match="none of the selected images"):
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
