"""Flags of the programs, by program; known without TensorFlow."""

from __future__ import annotations

from imcl_tf import settings
from imcl_tf.options import Option


def _preparation(raw_dir_help: str) -> tuple[Option, ...]:
    """The flags of a program that prepares records."""
    return (
        Option("raw_dir", "", raw_dir_help),
        Option(
            "data_dir", "",
            "Directory that the records go to; empty = the default directory "
            "of TensorFlow Datasets.",
        ),
        Option(
            "on_bad_image", "error",
            "Whether to stop at an image that cannot be used (error), or to "
            "leave it out and list it in left_out.csv (skip).",
            choices=("error", "skip"),
        ),
        Option(
            "beam_runner", "",
            "Apache Beam runner that writes the records, such as DirectRunner; "
            "by default this program writes them itself.",
        ),
        Option(
            "beam_option", "",
            "Option of the Beam runner, such as direct_num_workers=2.",
            repeated=True,
        ),
    )  # fmt: skip


FOLDER = _preparation("Directory of images/, labels.csv[.gz] and splits.csv.")
COCO = (
    *_preparation(
        "Directory of the raw files: annotations/ and the directories of "
        "images, such as train2014/ and val2014/."
    ),
    Option(
        "config", "2014", "Year of the COCO release.", choices=("2014", "2017")
    ),
    Option(
        "vocabulary", "",
        "File of the label words: one word a line, or a TSV file with a column "
        "`word`. By default the labels are the 1000 most frequent words of the "
        "training captions.",
    ),
    Option(
        "absent", "negative",
        "Whether a word that no caption of an image has counts as observed "
        "absent (negative, as in the paper) or as unobserved (as in the "
        "released code).",
        choices=("negative", "unobserved"),
    ),
)  # fmt: skip
CUB = (
    *_preparation(
        "Directory of the raw files, where CUB_200_2011.tgz was unpacked."
    ),
    Option(
        "config", "zero_shot",
        "Which splits to use: those of the zero-shot benchmark, or those of "
        "train_test_split.txt.",
        choices=("zero_shot", "official"),
    ),
    Option(
        "split_file", "",
        "File of the splits for --config=zero_shot: att_splits.mat, or CSV "
        "with columns image,split. By default "
        "xlsa17/data/CUB/att_splits.mat in --raw_dir.",
    ),
)  # fmt: skip
OPEN_IMAGES = (
    *_preparation(
        "Directory of the raw files: the unpacked CSV files and images/."
    ),
    Option(
        "machine_labels", False,
        "Whether to also use labels that a classifier found and no human has "
        "verified.",
    ),
)  # fmt: skip
DOWNLOAD = (
    Option(
        "images", "",
        "File images.csv of one split of Open Images; required.",
    ),
    Option("out", "", "Directory for the images and manifest.csv; required."),
    Option(
        "ids", "",
        "File with the ids of the images to download, one id per line. "
        "Without it all images of --images are downloaded.",
    ),
    Option(
        "annotations", "",
        "File of annotations: only images that have a row in it are "
        "downloaded.",
        repeated=True,
    ),
    Option(
        "limit", 0,
        "Download only so many images, the first ones; 0 = all.",
        minimum=0,
    ),
    Option(
        "url", "thumbnail",
        "Version to download: thumbnail is Flickr's picture of about 640 by "
        "480 pixels, original the picture as it was uploaded.",
        choices=("thumbnail", "original"),
    ),
    Option(
        "retry_missing", False,
        "Request images again that an earlier call found missing or corrupt.",
    ),
    Option(
        "rate", 50.0, "Largest number of requests per second.", minimum=1e-3
    ),
    Option(
        "parallel", 32, "Number of threads that download images.", minimum=1
    ),
    Option(
        "retries", 3,
        "Further requests for an image after a failure that may pass, such as "
        "a timeout.",
        minimum=0,
    ),
    Option(
        "timeout", 20.0,
        "Seconds without a byte from the server after which a request fails.",
        minimum=1e-3,
    ),
)  # fmt: skip
FEATURES = (
    settings.DATASET,
    settings.DATA_DIR,
    settings.ON_BAD_IMAGE,
    *(o for o in settings.MODEL if o.name != "init_from"),
    Option(
        "batch_size", 64, "Pictures that are computed at a time.", minimum=1
    ),
)
LABEL_GRAPH = (
    Option(
        "kind", "",
        "Kind of the graph to make: cooccurrence connects labels that are "
        "present in the same pictures, identity connects none, wikipedia "
        "connects labels that Wikipedia's introductions name, and "
        "wikipedia_wordnet does so for labels that WordNet lacks and takes "
        "WordNet's similarities for the others.",
        choices=("cooccurrence", "identity", "wikipedia", "wikipedia_wordnet"),
    ),
    Option("dataset", "", "Data set with the labels, as in imcl_tf.main."),
    settings.DATA_DIR,
    settings.ON_BAD_IMAGE,
    Option(
        "labels", "",
        "Text file with the label names, one per line, in place of --dataset.",
    ),
    Option(
        "observed", "",
        "File observed_labels.npz of a run, whose labels --kind=cooccurrence "
        "counts in place of the training labels of --dataset.",
    ),
    Option(
        "graph_neighbors", 50,
        "Largest number of neighbours of a label, itself included (k_a).",
        minimum=1,
    ),
    Option(
        "articles_from", "",
        "Source of Wikipedia's articles: an XML dump, or a folder of files "
        "TITLE.txt.",
    ),
    Option(
        "articles", "",
        "CSV file with columns label,article: articles that were chosen by "
        "hand. Other labels get the article that has their name.",
    ),
    Option(
        "wordnet_dir", "",
        "Data directory of the package wn; empty = the package's default.",
    ),
    Option(
        "lexicon", "oewn:2024",
        "Lexicon of WordNet, NAME:VERSION, as the package wn names it.",
    ),
    Option("out", "", "File .npz to write the graph to."),
    Option("graph", "", "File .npz of the graph to draw."),
    Option("around", "", "Name of the label in the centre of the picture."),
    Option("picture", "", "File .png to write the picture to."),
)  # fmt: skip
CLEAN = (
    Option(
        "data_dir", "",
        "Directory that holds the records; empty = the default directory of "
        "TensorFlow Datasets.",
    ),
    Option("remove", False, "Remove what is listed."),
)  # fmt: skip
