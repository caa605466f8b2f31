"""imcl_tf.ops.metrics against scikit-learn, by hand, and at its limits."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
from sklearn.metrics import average_precision_score

from imcl_tf.ops.metrics import (
    AveragePrecision,
    average_precision,
    observed_counts,
)


def reference(labels, scores):
    """scikit-learn on the observed entries, one label at a time."""
    result = np.full(labels.shape[1], np.nan)
    for c in range(labels.shape[1]):
        seen = labels[:, c] != 0
        # Of positives alone scikit-learn's is 1, whatever the scores.
        if (labels[:, c] == 1).any() and (labels[:, c] == -1).any():
            result[c] = average_precision_score(
                labels[seen, c] == 1, scores[seen, c]
            )
    return result


def random_labels(rng, n, c, p=(0.3, 0.5, 0.2)):
    return rng.choice(np.array([-1, 0, 1], np.int8), size=(n, c), p=p)


def random_case(seed=0, n=200, c=30):
    """Half-observed labels, one without a positive, one unobserved."""
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, n, c)
    labels[:, 3] = -np.abs(labels[:, 3])
    labels[:, c - 1] = 0
    return labels, rng.normal(size=(n, c))


def accumulate(labels, scores, size):
    acc = AveragePrecision(labels.shape[1])
    for i in range(0, len(scores), size):
        acc.update(labels[i : i + size], scores[i : i + size])
    return acc


def assert_same(got, expected):
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_by_hand():
    # Label 0, by score: + (.9), - (.8), + (.7), unobserved left out (.6),
    # + (.5): precisions at the positives 1/1, 2/3, 3/4; AP = 29/36.
    # Label 1: + and - tie at .8 (2 images, 1 positive), then + (.2):
    # (1/2 + 2/3) / 2 = 7/12.
    # Label 2 has no positive, label 3 no negative. Means: 25/36 over two
    # labels, 25/72 over four.
    labels = np.array(
        [
            [1, 1, -1, 1],
            [-1, -1, 0, 1],
            [1, 1, -1, 0],
            [0, 0, 0, 1],
            [1, 0, -1, 0],
        ],
        np.int8,
    )
    scores = np.array(
        [
            [0.9, 0.8, 1, 4],
            [0.8, 0.8, 2, 3],
            [0.7, 0.2, 3, 2],
            [0.6, 1, 4, 1],
            [0.5, 0, 5, 0],
        ]
    )
    acc = AveragePrecision(4)
    acc.update(labels, scores)
    assert_same(acc.per_label(), [29 / 36, 7 / 12, np.nan, np.nan])
    assert acc.mean() == acc.mean(empty="skip") == pytest.approx(25 / 36)
    assert acc.mean(empty="zero") == pytest.approx(25 / 72)
    assert acc.positives().tolist() == [3, 2, 0, 3]
    assert acc.negatives().tolist() == [1, 1, 3, 0]
    # Of the two labels that have an AP.
    assert acc.support() == (2, 4, 5, 2)
    assert str(acc.support()) == (
        "2 of 4 labels, 5 entries observed present, 2 absent"
    )
    assert acc.positives().dtype == acc.negatives().dtype == np.int64


@pytest.mark.parametrize("seed", range(5))
def test_random(seed):
    labels, scores = random_case(seed)
    got = average_precision(labels, scores)
    assert np.flatnonzero(np.isnan(got)).tolist() == [3, 29]
    assert_same(got, reference(labels, scores))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("levels", [1, 2, 5, 50])
def test_heavy_ties(levels, dtype):
    labels, scores = random_case()
    scores = np.random.default_rng(1).integers(levels, size=scores.shape)
    scores = (scores / 7 - 0.3).astype(dtype)
    assert_same(average_precision(labels, scores), reference(labels, scores))


def test_ties_do_not_depend_on_order():
    labels, scores = random_case()
    scores = np.round(scores)
    order = np.random.default_rng(1).permutation(len(scores))
    np.testing.assert_array_equal(
        average_precision(labels, scores),
        average_precision(labels[order], scores[order]),
    )


def test_ties_are_judged_in_the_dtype_of_the_scores():
    labels = np.array([[1], [-1]], np.int8)
    scores = np.array([[1 + 1e-12], [1]])
    assert average_precision(labels, scores) == 1
    assert average_precision(labels, scores.astype(np.float32)) == 0.5
    rng = np.random.default_rng(0)
    labels = random_labels(rng, 400, 10)
    scores = 1 + rng.random((400, 10)) * 2e-6
    narrow = scores.astype(np.float32)
    assert len(np.unique(narrow)) < 50
    assert_same(average_precision(labels, scores), reference(labels, scores))
    assert_same(average_precision(labels, narrow), reference(labels, narrow))


def test_signed_zeros_tie():
    labels = np.array([[1], [-1]], np.int8)
    for scores in ([[0.0], [-0.0]], [[-0.0], [0.0]]):
        assert average_precision(labels, np.array(scores)) == 0.5


def test_many_images_one_label():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, 100_000, 2, p=(0.1, 0.1, 0.8))
    scores = rng.random((100_000, 2)).astype(np.float32)
    assert_same(average_precision(labels, scores), reference(labels, scores))


@pytest.mark.filterwarnings("error")
def test_single_image_constant_scores_and_all_positive():
    one = np.array([[1, -1, 0]], np.int8)
    assert_same(average_precision(one, np.ones((1, 3))), [np.nan] * 3)
    labels, scores = random_case()
    constant = np.full_like(scores, 0.5)
    expected = (labels == 1).sum(0) / np.maximum((labels != 0).sum(0), 1)
    expected[[3, 29]] = np.nan
    assert_same(average_precision(labels, constant), expected)
    positive = average_precision(np.ones_like(labels), scores)
    assert_same(positive, [np.nan] * 30)


def test_one_score_of_all_images_is_chance():
    """Infinite ones too; a label seen once, or never, tells nothing."""
    labels = np.array([[1, -1, 1, 0], [-1, 1, 0, 0], [0, 1, 0, 0]], np.int8)
    scores = np.array(
        [[3, -np.inf, 1, 5], [3, -np.inf, 2, 6], [4, -np.inf, 3, 7]]
    )
    for change, expected in (0, True), (1, False):
        scores[1, 0] += change
        precision = AveragePrecision(4)
        precision.update(labels, scores)
        assert precision.is_chance() == expected


def test_infinite_scores_rank_first_and_last():
    labels, scores = random_case()
    scores[:, ::2] = np.round(scores[:, ::2])
    infinite = np.where(scores > 0.9, np.inf, scores)
    infinite = np.where(scores < -0.9, -np.inf, infinite)
    finite = np.clip(infinite, -100, 100)  # what scikit-learn accepts
    assert_same(average_precision(labels, infinite), reference(labels, finite))


def test_unobserved_scores_do_not_matter():
    labels, scores = random_case()
    spoilt = np.where(labels == 0, np.nan, scores)
    np.testing.assert_array_equal(
        average_precision(labels, spoilt), average_precision(labels, scores)
    )


@pytest.mark.parametrize("size", [1, 7, 64, 199, 200])
def test_streaming_is_one_shot(size):
    labels, scores = random_case()
    scores = np.round(scores, 1)
    acc = accumulate(labels, scores, size)
    expected = average_precision(labels, scores)
    np.testing.assert_array_equal(acc.per_label(), expected)
    np.testing.assert_array_equal(acc.positives(), (labels == 1).sum(0))
    np.testing.assert_array_equal(acc.negatives(), (labels == -1).sum(0))


def test_reading_between_updates_and_reusing_the_batch():
    labels, scores = random_case()
    acc = AveragePrecision(30)
    label_buffer, score_buffer = labels[:50].copy(), scores[:50].copy()
    for i in range(0, 200, 50):
        label_buffer[:], score_buffer[:] = (
            labels[i : i + 50],
            scores[i : i + 50],
        )
        acc.update(label_buffer, score_buffer)
        acc.positives()[:] = 0  # what is returned is the caller's
        expected = reference(labels[: i + 50], scores[: i + 50])
        assert_same(acc.per_label(), expected)
        assert_same(acc.per_label(), expected)


def test_batches_of_different_dtypes():
    labels, scores = random_case()
    acc = AveragePrecision(30)
    acc.update(labels[:90], scores[:90].astype(np.float16))
    acc.update(labels[90:], scores[90:])
    scores[:90] = scores[:90].astype(np.float16)
    assert_same(acc.per_label(), reference(labels, scores))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "lil", "dok"])
@pytest.mark.parametrize("suffix", ["matrix", "array"])
def test_sparse_is_dense(kind, suffix):
    labels, scores = random_case()
    sparse = getattr(scipy.sparse, f"{kind}_{suffix}")(labels)
    np.testing.assert_array_equal(
        average_precision(sparse, scores), average_precision(labels, scores)
    )
    if kind == "csr":
        np.testing.assert_array_equal(
            accumulate(sparse, scores, 33).per_label(),
            average_precision(labels, scores),
        )


def test_sparse_stored_zeros_and_duplicates_are_as_toarray():
    # (0, 0) is stored as 1, 1 and -1, which is 1; (1, 0) as 0; (2, 0) as -1.
    entries = ([1, 1, -1, 0, -1], ([0, 0, 0, 1, 2], [0, 0, 0, 0, 0]))
    labels = scipy.sparse.coo_array(entries, shape=(3, 1))
    acc = AveragePrecision(1)
    acc.update(labels, np.array([[1.0], [3.0], [2.0]]))
    assert (acc.positives()[0], acc.negatives()[0]) == (1, 1)
    assert acc.per_label() == 0.5
    assert labels.nnz == 5  # the caller's matrix is left as it was


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors(dtype):
    labels, scores = random_case()
    tensor = tf.cast(tf.constant(scores), dtype)
    exact = tf.cast(tensor, tf.float64).numpy()
    expected = reference(labels, exact)
    assert_same(average_precision(tf.constant(labels), tensor), expected)
    assert_same(average_precision(labels, tensor.numpy()), expected)


def test_bfloat16_array():
    scores = np.array([[1.0], [2.0]], ml_dtypes.bfloat16)
    assert average_precision(np.array([[1], [-1]]), scores) == 0.5


@pytest.mark.filterwarnings("error")
def test_no_positive_and_no_image():
    acc = AveragePrecision(3)
    for _ in range(2):
        assert_same(acc.per_label(), [np.nan] * 3)
        assert acc.support() == (0, 3, 0, 0)
        assert acc.positives().tolist() == [0, 0, 0]
        acc.update(np.zeros((0, 3), np.int8), np.zeros((0, 3)))
        acc.update(np.full((4, 3), -1), np.zeros((4, 3)))
    assert acc.negatives().tolist() == [8, 8, 8]


@pytest.mark.parametrize("empty", ["skip", "zero"])
@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        ([[0, 0, 0]], "0 entries are observed present, 0 absent"),
        ([[1, 0, 1]], "2 entries are observed present, 0 absent"),
        ([[-1, -1, -1]], "0 entries are observed present, 3 absent"),
        ([[1, -1, -1], [1, -1, 0]], "2 entries are observed present, 3 absent"),
    ],
)
def test_a_mean_over_no_label_is_refused(labels, counts, empty):
    acc = AveragePrecision(3)
    labels = np.array(labels, np.int8)
    acc.update(labels, np.zeros(labels.shape))
    message = f"undefined: of 3 labels none has both .*{counts}"
    with pytest.raises(ValueError, match=message):
        acc.mean(empty=empty)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_counts_of_observed_entries(kind):
    labels, _ = random_case()
    positives, negatives = observed_counts(kind(labels))
    np.testing.assert_array_equal(positives, (labels == 1).sum(0))
    np.testing.assert_array_equal(negatives, (labels == -1).sum(0))


def assert_finds(labels):
    """Each observed entry is found, and with the score of its place."""
    scores = np.random.default_rng(2).random(labels.shape)
    acc = AveragePrecision(labels.shape[1])
    acc.update(labels, scores)
    np.testing.assert_array_equal(acc.positives(), (labels == 1).sum(0))
    np.testing.assert_array_equal(acc.negatives(), (labels == -1).sum(0))
    assert_same(acc.per_label(), reference(labels, scores))


@pytest.mark.parametrize("place", range(24))
def test_labels_anywhere_in_words_of_eight(place):
    for others in (0, -1):
        labels = np.full(24, others, np.int8)
        labels[place] = 1
        for shape in ((1, 24), (3, 8), (8, 3), (24, 1)):
            assert_finds(labels.reshape(shape))
        for end in range(place + 1, 24):  # most are not whole words
            assert_finds(labels[None, :end])
    two = np.zeros((2, 12), np.int8)
    two.flat[[place, (place + 7) % 24]] = -1, 1
    assert_finds(two)


@pytest.mark.parametrize("n, c", [(8, 5), (7, 5), (16, 24), (5, 8), (1, 1)])
@pytest.mark.parametrize(
    "dtype", ["i1", "i2", "i4", "i8", ">i4", "f2", "f4", "f8", "g"]
)
def test_dtypes_and_layouts_of_labels(n, c, dtype):
    rng = np.random.default_rng(0)
    labels = random_labels(rng, n, c, p=(0.1, 0.8, 0.1)).astype(dtype)
    wide = np.ones((2 * n, 3 * c), dtype)
    wide[::2, 1::3] = labels
    shifted = np.ones(n * c + 1, dtype)[1:].reshape(n, c)  # 1 byte off a word
    shifted[:] = labels
    backward = labels[::-1, ::-1].copy()[::-1, ::-1]
    for same in (
        labels,
        np.asfortranarray(labels),
        wide[::2, 1::3],
        shifted,
        backward,
    ):
        np.testing.assert_array_equal(same, labels)
        assert_finds(same)


@pytest.mark.parametrize("dtype", ["f4", ml_dtypes.float8_e4m3fn])
def test_zeros_of_other_dtypes_are_unobserved(dtype):
    labels = np.zeros((2, 8), dtype)
    labels[0, 3] = labels[1, 4] = 1
    labels[1, 3] = -1
    labels[1, 5] = -np.zeros((), dtype)
    assert_finds(labels)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("dtype", ["u1", "u8", "?"])
def test_dtypes_without_absent_are_refused(dtype, kind):
    """Their 0 means absent to whoever made them, and unobserved here."""
    labels = kind(np.eye(3).astype(dtype))
    with pytest.raises(ValueError, match=f"signed .*got {np.dtype(dtype)}"):
        average_precision(labels, np.zeros((3, 3)))


def test_a_wrong_label_is_named_wherever_it_is():
    for i in range(16):
        labels = np.zeros((2, 8), np.int8)
        labels.flat[i] = 3
        with pytest.raises(
            ValueError, match=f"got 3 at image {i // 8}, label {i % 8}$"
        ):
            average_precision(labels, np.zeros((2, 8)))


@pytest.mark.parametrize("c", [255, 256, 257, 512, 600, 65_536, 65_537, 70_000])
def test_many_labels(c):
    """Most without an entry, among them whole hundreds; the last has some."""
    rng = np.random.default_rng(0)
    seen = np.unique([0, 1, c // 3, c - 2, c - 1, *range(254, min(c, 259))])
    labels = np.zeros((20, c), np.int8)
    labels[:, seen] = random_labels(rng, 20, len(seen))
    labels[:2, seen] = [[1], [-1]]
    scores = np.full((20, c), np.nan)
    scores[:, seen] = rng.integers(8, size=(20, len(seen)))
    expected = np.full(c, np.nan)
    expected[seen] = reference(labels[:, seen], scores[:, seen])
    assert_same(accumulate(labels, scores, 7).per_label(), expected)


def with_entry(array, value):
    array = array.copy()
    array[1, 2] = value
    return array


LABELS = np.ones((2, 3), np.int8)
SCORES = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    "labels, scores, message",
    [
        (LABELS, SCORES[:1], r"same shape, got \(2, 3\) and \(1, 3\)"),
        (LABELS.T, SCORES, r"same shape, got \(3, 2\) and \(2, 3\)"),
        (LABELS[0], SCORES, r"labels .*\[N, C\], got \(3,\)"),
        (LABELS, SCORES[0], r"scores .*\[N, C\], got \(3,\)"),
        (LABELS[None], SCORES[None], r"labels .*\[N, C\], got \(1, 2, 3\)"),
        (LABELS, scipy.sparse.csr_array(SCORES), r"scores .*got \(\)"),
        (with_entry(LABELS, 2), SCORES, "got 2 at image 1, label 2"),
        (with_entry(LABELS, -2), SCORES, "got -2 at image 1, label 2"),
        (with_entry(LABELS * 1.0, 0.5), SCORES, "got 0.5 at image 1, label 2"),
        (with_entry(LABELS * 1.0, np.nan), SCORES, "got nan at .*label 2"),
        (LABELS, with_entry(SCORES, np.nan), "NaN at image 1, label 2"),
        (LABELS, SCORES.astype(int), "floating point, got int64"),
        (LABELS[:, :2], SCORES[:, :2], r"C = 3 .*got shape \(2, 2\)"),
    ],
)
def test_refused_at_the_door(labels, scores, message):
    acc = AveragePrecision(3)
    acc.update(LABELS, SCORES)
    with pytest.raises(ValueError, match=message) as error:
        acc.update(labels, scores)
    assert "\n" not in str(error.value)
    assert acc.positives().tolist() == [2, 2, 2]  # nothing was added
    if "C = 3" not in message:
        with pytest.raises(ValueError, match=message):
            average_precision(labels, scores)


@pytest.mark.parametrize("value", [2, np.nan])
def test_refused_in_sparse_labels(value):
    labels = scipy.sparse.csr_array(with_entry(LABELS * 1.0, value))
    with pytest.raises(
        ValueError, match=f"got {value:.1f} at image 1, label 2"
    ):
        average_precision(labels, SCORES)
    with pytest.raises(
        ValueError, match=r"same shape, got \(2, 3\) and \(1, 3"
    ):
        average_precision(labels, SCORES[:1])


def test_refused_arguments():
    with pytest.raises(ValueError, match="'skip' or 'zero', got 'ignore'"):
        AveragePrecision(3).mean(empty="ignore")
    with pytest.raises(ValueError, match="num_labels .*got 0"):
        AveragePrecision(0)
    with pytest.raises(ValueError, match="num_labels .*got 0"):
        average_precision(np.zeros((4, 0)), np.zeros((4, 0)))


def test_memory_grows_with_the_observed_labels_only():
    n, c, size, seen = 20_000, 1_000, 500, 9
    rng = np.random.default_rng(0)
    labels = np.zeros((size, c), np.int8)
    scores = np.zeros((size, c), np.float32)
    rows = np.arange(size)[:, None]
    columns = (np.arange(size * seen) * 37 % c).reshape(size, seen)
    signs = rng.choice(np.array([-1, 1], np.int8), size=(size, seen))
    labels[rows, columns] = signs
    acc = AveragePrecision(c)
    tracemalloc.start()
    try:
        for _ in range(n // size):
            rng.random(out=scores, dtype=np.float32)
            acc.update(labels, scores)
        kept, peak = tracemalloc.get_traced_memory()
        acc.mean()
        merged, peak_of_read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    entries = n * seen
    assert acc.positives().sum() + acc.negatives().sum() == entries
    # 7 bytes an entry are stored; a dense copy would take 111 and more.
    assert kept / entries < 8
    assert merged / entries < 8
    assert peak / entries < 15
    assert peak_of_read / entries < 100
