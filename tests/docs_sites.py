"""What the documentation downloads, in small, and how its commands get it."""

import functools
import http.server
import shutil
import tarfile
import threading

from tests.data_prep import test_wordnet, wikipedia_files
from tests.data_prep.coco import files as coco_files
from tests.data_prep.cub import files as cub_files
from tests.data_prep.open_images import files as open_images_files


class Serving:
    """A context in which `directory` is served over HTTP; it is the address."""

    def __init__(self, directory):
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

        handler = functools.partial(Handler, directory=directory)
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), handler
        )

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def write_sites(path, address):
    """Writes every file that is downloaded to `path`, served at `address`."""
    coco = path / "coco"
    coco_files.write_coco(coco, sizes={"train": 20, "val": 16})
    for name, part in (
        ("annotations_trainval2014", "annotations"),
        ("train2014", "train2014"),
        ("val2014", "val2014"),
    ):
        shutil.make_archive(path / name, "zip", coco, part)
    cub = path / "cub"
    cub_files.write_raw(cub)
    shutil.make_archive(path / "xlsa17", "zip", cub, "xlsa17")
    with tarfile.open(path / "CUB_200_2011.tgz", "w:gz") as archive:
        for name in ("CUB_200_2011", "attributes.txt"):
            archive.add(cub / name, name)
    with tarfile.open(path / "oidv2-resnet_v1_101.ckpt.tar.gz", "w:gz"):
        pass  # the tests take a small network in its place
    wikipedia_files.write_dump(
        path / "enwiki-latest-pages-articles.xml.bz2",
        ("Goose, wild", "A wild goose is a bird."),
    )
    _write_open_images(path, address)


def _write_open_images(path, address):
    """The three archives of tables, and the images they point to."""
    raw = path / "2017_11"
    raw.mkdir()
    open_images_files.write_raw(raw)
    for split in open_images_files.SPLITS:
        ids = sorted(p.stem for p in (raw / "images" / split).rglob("*.jpg"))
        (path / split).mkdir()
        for image in (raw / "images" / split).rglob("*.jpg"):
            image.rename(path / split / image.name)
        header = (
            "ImageID,Subset,OriginalURL,OriginalLandingURL,License,"
            "AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
            "Thumbnail300KURL\n"
        )
        rows = (f"{i},{split},,,,,,,,,{address}/{split}/{i}.jpg\n" for i in ids)
        (raw / split / "images.csv").write_text(header + "".join(rows))
        # Of 5,000 labels and so few images hardly one is both on some image
        # and not on another, as its average precision needs.
        human = open_images_files.read_rows(
            raw / split / "annotations-human.csv"
        )
        label = open_images_files.mid(open_images_files.DESCRIBED - 1)
        human = [row for row in human if row[2] != label]
        both = [(i, "verification", label, n) for n, i in enumerate(ids[:2])]
        open_images_files.write_rows(
            raw / split / "annotations-human.csv", human + both
        )
    shutil.rmtree(raw / "images")
    for archive, pattern in (
        ("images", "*/images.csv"),
        ("annotations_human", "*/annotations-human.csv"),
        ("classes", "class*"),
    ):
        with tarfile.open(path / f"{archive}_2017_11.tar.gz", "w:gz") as file:
            for table in raw.glob(pattern):
                file.add(table, table.relative_to(path))


def download(arguments, place, sites):
    """What `curl` would do with `arguments`, from the files in `sites`."""
    directory = place
    if "--output-dir" in arguments:
        name = arguments[arguments.index("--output-dir") + 1]
        directory = place / name
        directory.mkdir(exist_ok="--create-dirs" in arguments)
    shutil.copy(sites / arguments[-1].rpartition("/")[2], directory)


def download_wordnet(place):
    """What `python -m wn download` would do, with a tiny lexicon."""
    lexicon = test_wordnet.lexicon_xml().replace('"tiny"', '"oewn"')
    lexicon = lexicon.replace('version="1"', 'version="2024"')
    test_wordnet.add(place / "wordnet", lexicon)
