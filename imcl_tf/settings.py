"""Every setting of a run and of its methods, declared once.

Flags of `imcl_tf.main`, arguments of `imcl_tf.run`, `OPTIONS` of the methods,
`--help`, `flags.cfg` and presets all follow from here. Free of TensorFlow, so
that `--help` answers at once.
"""

from __future__ import annotations

from imcl_tf.options import Option

PAPER_DATASETS = ("coco", "cub", "open_images")
DATASETS = ("scenes", "folder", *PAPER_DATASETS)
SMALL_SCENES = "scenes/small"
BACKBONE_NAMES = ("small_cnn", "resnet101", "vgg16", "resnet_v1_101", "vgg_16")
HIDING_RULES = ("per_label", "per_image", "single_positive")
BACKBONE_FORMS = ("FILE.keras", "keras:NAME", "kerashub:PRESET")
BACKBONE_INPUTS = ("pixels", "unit", "signed", "caffe", "torch")
REGIMES = ("end_to_end", "fixed_features")
AUGMENT_LEVELS = ("light", "medium", "strong")

# Declared by the program: a library user has the objects instead.
DATASET = Option(
    "dataset", "",
    "Data set to train on: scenes (rendered pictures that the package makes; "
    "scenes/small has a third of them), "
    "folder (your own pictures), coco, cub, open_images, or tfds:NAME for a "
    "set of TensorFlow Datasets; a variant follows a slash, as in coco/2017.",
)  # fmt: skip
DATA_DIR = Option(
    "data_dir", "",
    "Directory of the data: for folder the one with images/ (or --features), "
    "labels.csv and, if you have it, splits.csv; for other sets the one with "
    "their prepared records; empty = the default directory of TensorFlow "
    "Datasets.",
)  # fmt: skip
ON_BAD_IMAGE = Option(
    "on_bad_image", "error",
    "What to do with a picture that cannot be read: stop with an error, or "
    "skip it and list it in left_out.csv.",
    choices=("error", "skip"),
)  # fmt: skip
# How --dataset=folder is read.
FOLDER = (
    Option(
        "features", "",
        "File of features in the place of images/ of --dataset=folder: .npz "
        "(arrays ids and features), .npy (ids beside it, in NAME.ids.txt), "
        ".parquet or TFRecords. The classifiers are then trained on these: "
        "there is no network, and --regime is fixed_features.",
    ),
    Option(
        "label_table", "",
        "Table of the labels of --dataset=folder; empty = the only one of "
        "labels.csv, labels.tsv, labels.txt, labels.json and these with .gz "
        "in the folder.",
    ),
    Option(
        "unlisted", "unset",
        "What a label of --dataset=folder is on a picture for which the table "
        "does not list it: unobserved; absent; or absent_in_evaluation, which "
        "is absent in validation and test, for average precision, and "
        "unobserved in training. unset = unobserved where the table lists "
        "absent labels too; lists of labels and COCO files need it.",
        choices=("unset", "unobserved", "absent", "absent_in_evaluation"),
    ),
    Option(
        "zero", "unset",
        "What a value of 0 means in the table of --dataset=folder. unset = "
        "unobserved beside -1 in a table of one row per label, absent without "
        "-1 in a table of one column per label; other tables need it.",
        choices=("unset", "absent", "unobserved"),
    ),
    Option(
        "label_separator", "unset",
        "What separates the labels in the column labels of a table of "
        "--dataset=folder.",
        choices=("unset", "comma", "semicolon", "tab", "pipe", "space"),
    ),
    Option(
        "split_seed", 0,
        "Seed of the split of a folder that holds no splits.csv.",
    ),
    Option(
        "split_shares", "80/10/10",
        "Percent of the pictures for train, validation and test, for a folder "
        "that holds no splits.csv.",
    ),
)  # fmt: skip
PROGRAM_DATA = (DATASET, DATA_DIR, ON_BAD_IMAGE, *FOLDER)

DATA = (
    Option(
        "observed_fraction", 1.0,
        "Share of the training labels to keep, in (0, 1]; the others are "
        "hidden to simulate partial labels.",
        minimum=0, maximum=1,
    ),
    Option(
        "observed_rule", "per_label",
        "How labels are hidden: per_label keeps each with the same "
        "probability, and one positive and one negative of every label; "
        "per_image keeps the same share of each picture's labels; "
        "single_positive keeps one present label of each picture alone.",
        choices=HIDING_RULES,
    ),
    Option("batch_size", 32, "Pictures in a training step (B).", minimum=1),
    Option(
        "augment", True,
        "Change the training pictures at random, as --augment_level says.",
    ),
    Option(
        "augment_level", "light",
        "How: crop to 80 % of the area or more and mirror (light); crop to "
        "half, and vary the colours by a fifth (medium); crop to 30 %, vary "
        "the colours by two fifths and gray out a part (strong).",
        choices=AUGMENT_LEVELS,
    ),
)  # fmt: skip
BACKBONE = Option(
    "backbone", "small_cnn",
    "Network that turns a picture into features. One of those named here; "
    "FILE.keras, a saved Keras model; keras:NAME, a network of "
    "keras.applications such as keras:EfficientNetV2B0; or kerashub:PRESET, a "
    "preset of KerasHub such as kerashub:dinov2_small, or the directory of "
    "one. resnet_v1_101 and vgg_16 are those of TF-Slim.",
    choices=BACKBONE_NAMES, forms=BACKBONE_FORMS,
)  # fmt: skip
BACKBONE_INPUT = Option(
    "backbone_input", "pixels",
    "What the network of FILE.keras takes: pixels in [0, 255], unit "
    "[0, 1], signed [-1, 1], caffe (BGR less ImageNet's mean) or torch "
    "(RGB with ImageNet's mean 0 and deviation 1).",
    choices=BACKBONE_INPUTS,
)  # fmt: skip
MODEL = (
    BACKBONE,
    Option(
        "backbone_weights", "none",
        "Weights the network starts from: none (random, but for FILE.keras and "
        "kerashub:PRESET their own), imagenet (downloaded; keras:NAME, "
        "resnet101 and vgg16), a Keras weights file, or for resnet_v1_101 and "
        "vgg_16 a TF-Slim checkpoint.",
    ),
    Option(
        "backbone_layer", "",
        "Layer of the network, or of one within, whose output are the "
        "features, averaged over positions or tokens; empty = the last one.",
    ),
    BACKBONE_INPUT,
    Option(
        "image_size", 0,
        "Side of the network's input in pixels (S); 0 = the network's own.",
        minimum=0,
    ),
    Option(
        "init_from", "",
        "Workdir of an earlier run whose logistic model this run starts from "
        "instead of training one.",
    ),
)  # fmt: skip
# A run has two stages: the initial logistic model, then the method. The first
# has the defaults of those options of METHOD_STAGE that have no initial_ twin.
METHOD_STAGE = (
    Option(
        "epochs", 3,
        "Passes over the training set with the method.", minimum=0,
    ),
    Option(
        "max_steps", 0,
        "Steps of the method at most, where --epochs would be more; 0 = no "
        "limit.",
        minimum=0,
    ),
    Option(
        "learning_rate", 1e-3,
        "Learning rate of the classifiers and the network.", minimum=0,
    ),
    Option(
        "backbone_learning_rate", 0.0,
        "Learning rate of the network alone; 0 = --learning_rate.", minimum=0,
    ),
    Option("epsilon", 1.0, "RMSProp epsilon.", minimum=0),
    Option(
        "weight_decay", 0.0,
        "Decoupled weight decay per step, multiplied by the learning rate.",
        minimum=0,
    ),
    Option(
        "rate_drop_epoch", 0,
        "Divide all learning rates by 10 after this many epochs, for "
        "--rate_schedule=plateau; 0 = never.",
        minimum=0,
    ),
)  # fmt: skip
INITIAL_HEAD = Option(
    "initial_head", "solved",
    "Initial logistic model on features of a fixed network: solved to its "
    "optimum for each L2 penalty, or trained for --initial_epochs. Beyond what "
    "fits into memory a part is solved, and training follows with the penalty "
    "so chosen. End to end, a pretrained network is trained from there.",
    choices=("solved", "trained"),
)  # fmt: skip
INITIAL_STAGE = (
    Option(
        "initial_epochs", 40,
        "Epochs of the logistic model that every method starts from.",
        minimum=0,
    ),
    Option(
        "initial_learning_rate", 1e-3,
        "Learning rate of the initial logistic model.", minimum=0,
    ),
    Option(
        "initial_epsilon", 1e-7,
        "RMSProp epsilon of the initial logistic model.", minimum=0,
    ),
    Option(
        "initial_weight_decay", 1.0,
        "Decoupled weight decay of the initial logistic model.", minimum=0,
    ),
)  # fmt: skip
ON_NAN = ("stop", "skip")
BOTH_STAGES = (
    Option(
        "regime", "end_to_end",
        "Train the network too (end_to_end), or keep it fixed and store its "
        "features once (fixed_features).",
        choices=REGIMES,
    ),
    Option(
        "unit_norm", True,
        "Bring fixed features to unit norm, so that penalties and similarities "
        "mean the same on all data.",
    ),
    Option(
        "penalty", 0.0,
        "L2 penalty of the classifiers; 0 = chosen on validation where the "
        "initial model is solved, none where it is trained.",
        minimum=0,
    ),
    Option(
        "optimizer", "rmsprop",
        "RMSProp, as in the paper, or AdamW with its usual epsilon.",
        choices=("rmsprop", "adamw"),
    ),
    Option(
        "momentum", 0.9, "RMSProp momentum; beta_1 of AdamW.",
        minimum=0, maximum=0.999999,
    ),
    Option(
        "rate_schedule", "plateau",
        "How the learning rates fall: when validation says so, see "
        "--rate_decay (plateau), or along a cosine to 0 at the end (cosine).",
        choices=("plateau", "cosine"),
    ),
    Option(
        "rate_decay", 0.8,
        "Factor of all learning rates when the moving average of validation "
        "mAP falls, for --rate_schedule=plateau; 1 = no decay.",
        minimum=0, maximum=1,
    ),
    Option(
        "warmup_epochs", 0.0,
        "Epochs in which the learning rates rise to their full values; a "
        "fraction is allowed.",
        minimum=0,
    ),
    Option(
        "clip_norm", 0.0,
        "Largest norm of the gradient of all trained weights together; 0 = "
        "not clipped.",
        minimum=0,
    ),
    Option(
        "layer_decay", 1.0,
        "Factor of the network's learning rate from each of up to twelve "
        "groups of layers to the next lower one; 1 = one rate for all.",
        minimum=1e-3, maximum=1,
    ),
    Option(
        "ema", False,
        "Evaluate, keep and export the exponential moving average of the "
        "weights.",
    ),
    Option(
        "ema_decay", 0.999,
        "Decay of --ema per step; lower in the first steps.",
        minimum=0, maximum=0.999999,
    ),
    Option(
        "evaluate_every", 0,
        "Steps between evaluations on validation; 0 = once per epoch.",
        minimum=0,
    ),
    Option(
        "checkpoint_every", 0,
        "Steps between checkpoints, from which --resume continues; 0 = one "
        "after each evaluation. It does not change the result.",
        minimum=0,
    ),
    Option(
        "on_nan", "stop",
        "What happens at a minibatch whose loss or gradient is not finite: "
        "training stops and names its images (stop), or it is left out and "
        "listed in skipped_minibatches.csv (skip).",
        choices=ON_NAN,
    ),
    Option(
        "keep", "best",
        "Model that the run ends with: the best on validation, or the latest.",
        choices=("best", "latest"),
    ),
)  # fmt: skip
JIT = Option(
    "jit", False,
    "Compile the network with XLA; faster on accelerators, slower on CPUs.",
)  # fmt: skip
TRAINING = (
    *BOTH_STAGES, *METHOD_STAGE, INITIAL_HEAD, *INITIAL_STAGE,
    Option(
        "seed", 0,
        "Seed of hidden labels, initial weights, order and augmentation.",
        minimum=0, maximum=2**32 - 1,
    ),
)  # fmt: skip


_SIMILARITY = ("learned", "fixed", "none")
_FORM = ("paper", "released")
_IMCL = (
    Option(
        "lambda_y", 1.0, "Weight of the label smoothness, eq. (5).", minimum=0
    ),
    Option(
        "lambda_f", 0.5, "Weight of the feature smoothness, eq. (6).",
        minimum=0,
    ),
    Option(
        "num_neighbors", 5, "Similar images of each image (k).", minimum=1
    ),
    Option(
        "label_graph", "cooccurrence",
        "Label graph A: cooccurrence (from the training labels), identity, or "
        "the file of a label graph.",
    ),
    Option(
        "graph_neighbors", 50,
        "Related labels of each label in the co-occurrence graph (k_a).",
        minimum=1,
    ),
    Option(
        "graph_self_weight", 0.0,
        "Weight of each label itself in the co-occurrence graph at the start, "
        "the others of its row making up the rest of 1; 0 = as in the released "
        "code, where it is n(j,j) beside the other counts n(j,j').",
        minimum=0, maximum=1,
    ),
    Option(
        "graph_learning_rate", 0.0,
        "Learning rate of the label graph; 0 = that of the classifiers.",
        minimum=0,
    ),
    Option(
        "dictionary_size", -1,
        "Training images kept as candidates beside the minibatch, so chosen "
        "that rare labels are well represented; 0 = none, the minibatch "
        "alone; -1 = 10,000, or none where the data do not number their "
        "images.",
        minimum=-1,
    ),
    Option(
        "dictionary_refresh", 10,
        "Images of the dictionary whose features each step renews, in turn.",
        minimum=1,
    ),
    Option(
        "dictionary_gradient", "stored",
        "What a selected dictionary image contributes: its stored feature, or "
        "the feature of a new forward pass with its gradient (full).",
        choices=("stored", "full"),
    ),
    Option(
        "solver", "paper",
        "Solver of the image similarities: Algorithm 2 of the paper, or the "
        "released code's.",
        choices=_FORM,
    ),
    Option(
        "solver_threshold", 1e-6,
        "Lowest score at which the released solver selects an image.",
        minimum=1e-30,
    ),
    Option(
        "imputation", "paper",
        "How unobserved labels are imputed, eq. (3): as in the paper, or as "
        "in the released code.",
        choices=_FORM,
    ),
    Option(
        "positive_ratio", 2.0,
        "Imputed labels lie in [-1/c, 1]; this is c.", minimum=1,
    ),
    Option(
        "reconstruction", "tanh",
        "Form of eq. (5): with tanh (paper) or linear (released).",
        choices=("tanh", "linear"),
    ),
    Option(
        "loss_scale", "common",
        "Scale of lambda_y and lambda_f: common divides each term of loss and "
        "solver by the mean squared norm of what it approximates, so that "
        "they mean the same on all data; initial (released) multiplies them "
        "in the loss by the ratio of the losses in the first step; absolute "
        "(paper) leaves them as they are.",
        choices=("common", "initial", "absolute"),
    ),
    Option(
        "graph_update", "alternate",
        "Step on the label graph before the step on the network (alternate, "
        "Algorithm 1), or together with it (joint, released).",
        choices=("alternate", "joint"),
    ),
    Option(
        "image_similarity", "learned",
        "Image similarities: learned, fixed at the start, or none (table 4).",
        choices=_SIMILARITY,
    ),
    Option(
        "label_similarity", "learned",
        "Label graph: learned, fixed at the start, or none, the identity "
        "(table 4).",
        choices=_SIMILARITY,
    ),
    Option(
        "class_weight", 0.0,
        "Magnitude of the one-hot of a picture's class that is joined to its "
        "labels in eq. (5) (a; CUB); 0 = without.",
        minimum=0,
    ),
)  # fmt: skip
_ASYMMETRIC = (
    Option(
        "asymmetric_gamma_positive", 0.0,
        "Focal exponent of observed positive labels.", minimum=0,
    ),
    Option(
        "asymmetric_gamma_negative", 1.0,
        "Focal exponent of observed negative labels.", minimum=0,
    ),
    Option(
        "asymmetric_gamma_unobserved", 4.0,
        "Focal exponent of unobserved labels.", minimum=0,
    ),
    Option(
        "asymmetric_margin", 0.0,
        "Probability below which a label that is not positive has no loss.",
        minimum=0, maximum=1,
    ),
)  # fmt: skip

# Method -> its options; the paper's own comes first. Each class takes its entry
# as `OPTIONS`.
METHOD_OPTIONS: dict[str, tuple[Option, ...]] = dict(
    imcl=_IMCL,
    logistic=(),
    wsabie=(
        Option(
            "wsabie_dimension", 100,
            "Dimension of WSABIE's joint space, at most d and C.", minimum=1,
        ),
        Option(
            "wsabie_norm", 1.0,
            "Largest norm of a column of WSABIE's maps V and W.",
            minimum=1e-6,
        ),
    ),
    cnn_rnn=(
        Option(
            "cnn_rnn_embedding", 64, "Size of CNN-RNN's label embeddings.",
            minimum=1,
        ),
        Option(
            "cnn_rnn_units", 512, "Units of CNN-RNN's LSTM.", minimum=1
        ),
        Option(
            "cnn_rnn_length", 20, "Most labels that CNN-RNN predicts per "
            "picture.", minimum=1,
        ),
        Option(
            "cnn_rnn_beam", 5, "Paths of CNN-RNN's beam search.", minimum=1
        ),
    ),
    fast0tag=(
        Option(
            "label_vectors", "",
            "Text file of label vectors (GloVe or word2vec) for Fast0Tag; "
            "empty = vectors from label co-occurrence.",
        ),
        Option(
            "fast0tag_dimension", 0,
            "Dimension of Fast0Tag's label vectors; 0 = the file's, or 300.",
            minimum=0,
        ),
        Option(
            "fast0tag_hidden", 1024, "Units of Fast0Tag's hidden layer.",
            minimum=1,
        ),
    ),
    curriculum=(
        Option(
            "curriculum_alpha", -4.45,
            "Factor alpha of g(rho) = alpha rho^gamma + beta in the "
            "partial-BCE.",
        ),
        Option("curriculum_beta", 5.45, "Offset beta of g(rho)."),
        Option("curriculum_gamma", 1.0, "Exponent gamma of g(rho)."),
        Option(
            "curriculum_threshold", 2.0,
            "Score |z| from which an unobserved label is labelled (theta).",
            minimum=1e-6,
        ),
        Option(
            "curriculum_round_epochs", 1,
            "Epochs between two rounds of labelling.", minimum=1,
        ),
    ),
    latent_noise=(
        Option(
            "latent_noise_scores", "visual",
            "What ranks the labels: their visual presence, or the probability "
            "that they are mentioned (relevance).",
            choices=("visual", "relevance"),
        ),
    ),
    lsep=(),
    assume_negative=(),
    weak_assume_negative=(),
    smoothed_assume_negative=(
        Option(
            "smoothing", 0.1,
            "Probability of the opposite value in the smoothed labels.",
            minimum=0, maximum=0.5,
        ),
    ),
    large_loss=(
        Option(
            "large_loss", "reject",
            "What happens to unobserved labels of large loss: no loss "
            "(reject), or positive for this step or for good.",
            choices=("reject", "correct_temporary", "correct_permanent"),
        ),
        Option(
            "large_loss_delta", 0.4,
            "Percent of the unobserved labels, per epoch, that count as of "
            "large loss (Delta_rel).",
            minimum=0, maximum=100,
        ),
    ),
    asymmetric=_ASYMMETRIC,
    selective=(
        *_ASYMMETRIC,
        Option(
            "selective_top_k", 5,
            "Unobserved labels of highest probability that each picture "
            "ignores.",
            minimum=0,
        ),
        Option(
            "selective_prior_threshold", 0.5,
            "Prior above which an unobserved label is ignored; 1 = never.",
            minimum=0, maximum=1,
        ),
    ),
    hill=(
        Option(
            "hill_lambda", 1.5,
            "Factor lambda of the Hill loss (lambda - p) p^2 of negatives.",
            minimum=1,
        ),
        Option(
            "hill_margin", 1.0,
            "Margin subtracted from the logit of positive labels.", minimum=0,
        ),
        Option(
            "hill_gamma", 2.0, "Focal exponent of positive labels.", minimum=0
        ),
    ),
    splc=(
        Option(
            "splc_threshold", 0.6,
            "Probability above which an unobserved label counts as positive "
            "(tau).",
            minimum=0, maximum=1,
        ),
        Option(
            "splc_first_epoch", 1, "Epochs before the first correction.",
            minimum=0,
        ),
        Option(
            "splc_margin", 1.0,
            "Margin subtracted from the logit of observed positive labels.",
            minimum=0,
        ),
        Option(
            "splc_gamma", 2.0, "Focal exponent of all labels.", minimum=0
        ),
    ),
    entropy_maximisation=(
        Option(
            "entropy_maximisation_alpha", 0.1,
            "Weight of the entropy of unobserved labels.", minimum=0,
        ),
        Option(
            "entropy_maximisation_beta", 0.9, "Weight of pseudo-labels.",
            minimum=0,
        ),
        Option(
            "entropy_maximisation_share", 0.9,
            "Share of the unobserved labels that are pseudo-negative in the "
            "end.",
            minimum=0, maximum=1,
        ),
        Option(
            "entropy_maximisation_warmup", 5,
            "Epochs before the first pseudo-labels.", minimum=1,
        ),
        Option(
            "entropy_maximisation_rounds", 5,
            "Epochs over which pseudo-labels are given.", minimum=1,
        ),
    ),
)  # fmt: skip
DEFAULT_METHOD = next(iter(METHOD_OPTIONS))

AUTO = "auto"
BUDGET = Option(
    "budget", 2.0,
    "Minutes that --method=auto takes for its trials.", minimum=0,
)  # fmt: skip
METHOD = (
    Option(
        "method", DEFAULT_METHOD,
        "Method that trains on the partial labels, starting from the logistic "
        f"model: {', '.join(METHOD_OPTIONS)}; or auto, which tries methods and "
        "settings and takes what validation proves to be better.",
    ),
    Option(
        "boost", False,
        "Boost positive scores at each position of the last feature map "
        "(BoostLU); end to end, with methods whose scores are those of a "
        "linear classifier.",
    ),
    Option(
        "boost_factor", 5.0,
        "Factor of the positive scores with --boost (alpha).", minimum=1,
    ),
)  # fmt: skip
# Extensions: what similar training images show, at the start and in each
# prediction.
NEIGHBORS = (
    Option(
        "completion_rounds", 0,
        "Rounds, at most, in which similar training images complete "
        "unobserved labels and the solved logistic model is solved again with "
        "them, before the method starts from it; the best one on validation "
        "counts. For --regime=fixed_features; 0 = none.",
        minimum=0,
    ),
    Option(
        "neighbors", "none",
        "Mix what the most similar training images show into each prediction: "
        "none (the paper), as the flags neighbor_* say (given), or as is best "
        "on validation (chosen).",
        choices=("none", "given", "chosen"),
    ),
    Option(
        "neighbor_share", 0.5,
        "Share of the neighbours in a prediction, with --neighbors=given.",
        minimum=0, maximum=1,
    ),
    Option(
        "neighbor_number", 20,
        "Similar training images of each picture at prediction, with "
        "--neighbors=given.",
        minimum=1,
    ),
    Option(
        "neighbor_temperature", 0.05,
        "Temperature of the neighbours' weights, the softmax of cosines, with "
        "--neighbors=given; large = all count alike.",
        minimum=1e-6,
    ),
    Option(
        "neighbor_observed", False,
        "Let observed labels of a neighbour replace what the classifier says "
        "of it, with --neighbors=given.",
    ),
    Option(
        "neighbor_by", "features",
        "What similar training images resemble a picture in, with "
        "--neighbors=given: its features, or the classifier's logits, each "
        "label's brought to one scale.",
        choices=("features", "logits"),
    ),
    Option(
        "neighbor_images", 20_000,
        "Training images at most that predictions look at, so chosen that "
        "rare labels are well represented.",
        minimum=1,
    ),
)  # fmt: skip
# Format -> where a run leaves it.
EXPORTED = {
    "pixels": "saved_model_pixels",
    "onnx": "model.onnx",
    "litert": "model.tflite",
}
EXPORT = Option(
    "export", "",
    "What to write beside saved_model, apart by commas: a SavedModel that "
    "takes pixels, not files, and has no string operations (pixels); the same "
    "as ONNX (onnx) or LiteRT (litert), which need the extras of these names. "
    "A finished run with --resume writes what it lacks.",
    choices=tuple(EXPORTED), several=True,
)  # fmt: skip
RUN = (*DATA, *MODEL, *METHOD, *TRAINING, *NEIGHBORS, JIT, EXPORT)
# Arguments of `imcl_tf.run` that make the objects it takes.
OBJECTS = (
    "backbone", "backbone_weights", "backbone_layer", "backbone_input",
    "image_size", "method",
)  # fmt: skip

MACHINE = (
    JIT,
    Option(
        "mixed_precision", "none",
        "Precision of the network: float32 (none), or bfloat16, faster where "
        "the processor has units for it.",
        choices=("none", "bfloat16"),
    ),
    Option(
        "strategy", "none",
        "Devices to train on: one (none), all GPUs of this machine "
        "(mirrored), or one of each worker that TF_CONFIG or Slurm names, on "
        "several machines (multi_worker).",
        choices=("none", "mirrored", "multi_worker"),
    ),
)  # fmt: skip
FILES = (
    Option(
        "workdir", "",
        "Directory that gets every file of the run: results, metrics, "
        "checkpoints, TensorBoard logs and the exported model.",
    ),
    Option(
        "resume", False,
        "Continue the run of --workdir from its latest checkpoint.",
    ),
    Option(
        "search", "",
        "JSON file of settings to try on validation first; the best are then "
        "trained. An interrupted search continues when called again.",
    ),
)  # fmt: skip


def known_options() -> dict[str, Option]:
    """Returns every option of `imcl_tf.main` by name."""
    of_methods = (o for of in METHOD_OPTIONS.values() for o in of)
    everything = (*PROGRAM_DATA, *FILES, BUDGET, *RUN, *of_methods, *MACHINE)
    return {option.name: option for option in everything}


def dataset_kind(dataset: str) -> str:
    """Returns the data set's name without variant, "tfds" for those of TFDS.

    Args:
      dataset: see the option `dataset`.

    Raises:
      ValueError: for an unknown one.
    """
    if isinstance(dataset, str) and dataset.startswith("tfds:"):
        return "tfds"
    name = str(dataset).split("/")[0]
    if dataset not in (*DATASETS, SMALL_SCENES) and name not in PAPER_DATASETS:
        raise ValueError(
            f"dataset must be one of {', '.join(DATASETS)} or tfds:NAME, got "
            f"{dataset!r}"
        )
    return name
