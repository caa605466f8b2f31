"""A server of images that answers in every way there is, and its listing."""

import collections
import csv
import http.server
import threading
import time

import numpy as np
import tensorflow as tf

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
        elif kind == "empty":
            self.answer(200, b"")
        elif kind == "nowhere":
            self.answer(302, b"", {"Location": "http://[:80/"})
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
