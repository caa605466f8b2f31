"""The image server, for the tests of the downloader."""

import threading

import pytest

from tests.data_prep.image_server import Server, image_id, write_images_csv


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
