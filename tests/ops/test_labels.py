"""Label checks, hiding, look-up and imputation, against dense NumPy."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
import tensorflow as tf

from imcl_tf.ops.labels import (
    LabelTable,
    check_labels,
    hide_labels,
    impute,
    rows_alone,
)
from tests import oracles

DENSE = np.array([[1, 0, -1], [0, 0, 0], [-1, 1, 0]], np.int8)
IMPUTED = {
    "paper": oracles.impute_paper,
    "released": oracles.impute_released,
}
forms = pytest.mark.parametrize("form", IMPUTED)
rules = pytest.mark.parametrize("rule", ["per_label", "per_image"])


def random_labels(seed, n=400, c=12, observed=0.5):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([-1, 1], np.int8), size=(n, c))
    return np.where(rng.random((n, c)) < observed, labels, 0).astype(np.int8)


def sparse(labels):
    return scipy.sparse.csr_array(np.asarray(labels, np.int8))


# check_labels.


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int64, np.float32, np.float64, object]
)
def test_check_labels_dense(dtype):
    checked = check_labels(DENSE.astype(dtype))
    assert checked.dtype == np.int8
    np.testing.assert_array_equal(checked, DENSE)


def test_check_labels_takes_lists_and_booleans():
    np.testing.assert_array_equal(check_labels(DENSE.tolist()), DENSE)
    np.testing.assert_array_equal(check_labels(DENSE == 1), DENSE == 1)


SPARSE_KINDS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


@pytest.mark.parametrize("kind", SPARSE_KINDS)
@pytest.mark.parametrize("dtype", [np.int8, np.float64])
def test_check_labels_sparse(kind, dtype):
    given = getattr(scipy.sparse, f"{kind}_array")(DENSE.astype(dtype))
    checked = check_labels(given)
    assert isinstance(checked, scipy.sparse.csr_array)
    assert checked.dtype == np.int8 and checked.nnz == 4
    np.testing.assert_array_equal(checked.toarray(), DENSE)


def test_check_labels_drops_explicit_zeros_of_a_copy():
    given = scipy.sparse.csr_array(
        ([1, 0, -1], ([0, 1, 2], [0, 1, 2])), shape=(3, 3)
    )
    assert given.nnz == 3
    checked = check_labels(given)
    assert checked.nnz == 2 and given.nnz == 3
    checked.data[:] = 1
    np.testing.assert_array_equal(given.data, [1, 0, -1])


def test_check_labels_without_images():
    assert check_labels(np.zeros((0, 3))).shape == (0, 3)
    assert check_labels(scipy.sparse.csr_array((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3), r"\[N, C\], got shape \(3,\)"),
        (np.zeros((2, 3, 1)), r"\[N, C\], got shape \(2, 3, 1\)"),
        (0, r"\[N, C\], got shape \(\)"),
        ([[1, 2]], "-1, 0 or 1, got 2"),
        ([[0.5, 1]], "-1, 0 or 1, got 0.5"),
        ([[1, np.nan]], "got nan"),
        (np.array([[255]], np.uint8), "got 255"),
        (scipy.sparse.csr_array([[0, 3]]), "-1, 0 or 1, got 3"),
        (scipy.sparse.csr_array([[0, np.nan]]), "got nan"),
    ],
)
def test_check_labels_errors(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels)


def test_check_labels_sees_entries_stored_twice():
    """Entries of one place add up, in COO and CSR: 1 + 1 = 2 is no label."""
    coo = scipy.sparse.coo_array(([1, 1], ([0, 0], [1, 1])), shape=(2, 3))
    csr = scipy.sparse.csr_array(([1, 1], [1, 1], [0, 2, 2]), shape=(2, 3))
    for twice in (coo, csr):
        with pytest.raises(ValueError, match="got 2"):
            check_labels(twice)
        assert twice.nnz == 2  # the caller's own stays


def test_rows_alone():
    labels = random_labels(3)
    kept = np.random.default_rng(4).random(len(labels)) < 0.5
    found = rows_alone(sparse(labels), kept)
    np.testing.assert_array_equal(found.toarray(), labels * kept[:, None])
    found.check_format()
    assert found.nnz == (labels * kept[:, None] != 0).sum()


# hide_labels.


@rules
@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.8])
def test_hide_labels_keeps_a_share_of_the_entries(fraction, rule):
    labels = random_labels(0, n=2000, c=40)
    hidden = hide_labels(sparse(labels), fraction, 1, rule)
    assert isinstance(hidden, scipy.sparse.csr_array)
    assert hidden.dtype == np.int8 and hidden.shape == labels.shape
    kept = hidden.toarray()
    # A subset: every kept entry is the label that was there.
    assert ((kept == 0) | (kept == labels)).all()
    # n = 40,000 entries: a standard deviation is at most 0.5 / 200 = 0.0025.
    assert abs((kept != 0).sum() / (labels != 0).sum() - fraction) < 0.02
    # And for each label, each sign: about 500 entries, deviation <= 0.022.
    for sign in (-1, 1):
        share = (kept == sign).sum(0) / (labels == sign).sum(0)
        assert (abs(share - fraction) < 0.1).all()


def test_hide_labels_keeps_both_signs_of_each_label():
    """Rare signs survive a fraction that would hide nearly everything."""
    labels = random_labels(1, n=60)
    labels[:, 0] = -1
    labels[7, 0] = 1  # a single positive
    labels[:, 1] = 1
    labels[9, 1] = -1  # a single negative
    labels[:, 2] = np.abs(labels[:, 2])  # no negative at all
    labels[:, 3] = 0  # nothing
    for seed in range(5):
        kept = hide_labels(sparse(labels), 0.01, seed).toarray()
        assert kept[7, 0] == 1 and kept[9, 1] == -1
        for sign in (-1, 1):
            np.testing.assert_array_equal(
                (kept == sign).any(0), (labels == sign).any(0)
            )
        # 11 labels, of 2 signs each at most; few others.
        assert (kept != 0).sum() < 40


def test_hide_labels_does_not_always_rescue_the_same_image():
    labels = sparse(np.ones((50, 1)))
    rescued = {
        int(hide_labels(labels, 1e-9, seed).nonzero()[0][0])
        for seed in range(20)
    }
    assert len(rescued) > 5


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.8, 0.999])
def test_hide_labels_per_image_keeps_an_exact_number(fraction):
    labels = random_labels(11, c=30)
    for image, observed in enumerate((0, 1, 2, 3)):
        labels[image] = 0
        labels[image, 5 : 5 + observed] = 1
    hidden = hide_labels(sparse(labels), fraction, 2, "per_image").toarray()
    assert ((hidden == 0) | (hidden == labels)).all()
    for before, after in zip(labels, hidden, strict=True):
        n = np.count_nonzero(before)
        wanted = max(round(fraction * n), 1) if n else 0
        assert np.count_nonzero(after) == wanted


def test_hide_labels_per_image_is_uniform_over_subsets():
    """12,000 images keep 3 of 6 labels: each of 20 triples 600 times."""
    labels = np.array([1, -1, -1, -1, 1, -1]) * np.ones((12_000, 1))
    hidden = hide_labels(sparse(labels), 0.5, 0, "per_image").toarray()
    found = Counter(tuple(np.flatnonzero(row)) for row in hidden)
    counts = [found.pop(triple, 0) for triple in combinations(range(6), 3)]
    assert not found
    # Were they uniform, one seed in 1,000 would fail; this one does not.
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_hide_labels_single_positive():
    """One of each image's positives, any of them; none of an image without."""
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], (400, 6), p=[0.5, 0.2, 0.3]).astype(np.int8)
    kept = hide_labels(sparse(labels), 1, 3, "single_positive").toarray()
    assert set(np.unique(kept)) == {0, 1}
    assert (labels[kept == 1] == 1).all()
    np.testing.assert_array_equal(kept.sum(1), (labels == 1).any(1))
    assert not labels[kept.sum(1) == 0].max(initial=-1) > 0
    # 400 images share about one positive in 1.8 with each other label.
    assert (kept.sum(0) > 30).all()
    with pytest.raises(ValueError, match="must be 1, got 0.5"):
        hide_labels(labels, 0.5, 0, "single_positive")


def test_hide_labels_per_image_has_no_rule_per_label():
    """A label of a single positive may lose it."""
    labels = -np.ones((40, 10))
    labels[7, 0] = 1
    kept = sum(
        hide_labels(sparse(labels), 0.1, seed, "per_image")[7, 0] == 1
        for seed in range(200)
    )
    # Binomial of 200 and 1/10: mean 20, deviation 4.2.
    assert 0 < kept < 42


def test_hide_labels_per_image_of_millions_of_images():
    """Random order within an image has digits left beside its number."""
    images = 4_000_000
    rows = np.repeat(np.arange(images - 1000, images), 12)
    columns = np.tile(np.arange(12), 1000)
    labels = scipy.sparse.csr_array(
        (np.ones(12_000, np.int8), (rows, columns)), shape=(images, 12)
    )
    hidden = hide_labels(labels, 0.25, 0, "per_image")
    np.testing.assert_array_equal(np.diff(hidden.indptr)[-1000:], 3)
    # Binomial of 1000 and 1/4: mean 250, deviation 13.7.
    shown = np.bincount(hidden.indices, minlength=12)
    assert (abs(shown - 250) < 69).all()


@rules
def test_hide_labels_of_smaller_fractions_are_subsets(rule):
    labels = random_labels(12, n=150, c=25)
    labels[:, 3] = -1
    labels[60, 3] = 1  # kept by rule whatever the fraction
    smaller = np.zeros_like(labels)
    for fraction in (1e-6, 0.1, 0.11, 0.2, 0.4, 0.6, 0.8, 1.0):
        larger = hide_labels(sparse(labels), fraction, 5, rule).toarray()
        assert (larger[smaller != 0] != 0).all()
        assert (larger != 0).sum() > (smaller != 0).sum()
        smaller = larger


@rules
def test_hide_labels_seed(rule):
    labels = sparse(random_labels(2))
    same = [hide_labels(labels, 0.5, 3, rule).toarray() for _ in range(2)]
    np.testing.assert_array_equal(*same)
    other = hide_labels(labels, 0.5, 4, rule).toarray()
    assert (other != same[0]).any()


@rules
def test_hide_labels_fraction_one_keeps_all(rule):
    labels = random_labels(3)
    np.testing.assert_array_equal(
        hide_labels(sparse(labels), 1, 0, rule).toarray(), labels
    )


@rules
def test_hide_labels_leaves_its_input_alone(rule):
    labels = sparse(random_labels(4))
    before = labels.toarray()
    hide_labels(labels, 0.3, 0, rule)
    np.testing.assert_array_equal(labels.toarray(), before)


@rules
def test_hide_labels_of_nothing_observed(rule):
    nothing = scipy.sparse.csr_array((4, 3), dtype=np.int8)
    hidden = hide_labels(nothing, 0.5, 0, rule)
    assert hidden.shape == (4, 3) and hidden.nnz == 0


@pytest.mark.parametrize(
    "given",
    [
        np.asarray,
        np.ndarray.tolist,
        lambda x: x.astype(float),
        scipy.sparse.csc_array,
        scipy.sparse.csr_matrix,
    ],
)
def test_hide_labels_takes_what_check_labels_takes(given):
    labels = np.random.default_rng(0).integers(-1, 2, (20, 5)).astype(np.int8)
    expected = hide_labels(sparse(labels), 0.5, 1)
    hidden = hide_labels(given(labels), 0.5, 1)
    assert isinstance(hidden, scipy.sparse.csr_array)
    assert hidden.dtype == np.int8 and (hidden != expected).nnz == 0


def test_hide_labels_refuses_other_values():
    with pytest.raises(ValueError, match="must be -1, 0 or 1, got 2"):
        hide_labels(np.full((2, 2), 2), 0.5, 0)


def test_hide_labels_by_default_per_label():
    labels = sparse(random_labels(13))
    np.testing.assert_array_equal(
        hide_labels(labels, 0.3, 0).toarray(),
        hide_labels(labels, 0.3, 0, "per_label").toarray(),
    )


@rules
@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, np.nan])
def test_hide_labels_errors(fraction, rule):
    with pytest.raises(ValueError, match=r"observed_fraction.*\(0, 1\], got"):
        hide_labels(sparse(DENSE), fraction, 0, rule)


def test_hide_labels_unknown_rule():
    message = "rule must be one of per_label, .*_positive, got 'per_row'"
    with pytest.raises(ValueError, match=message):
        hide_labels(sparse(DENSE), 1.0, 0, "per_row")


# LabelTable.


@pytest.mark.parametrize("observed", [0.02, 0.5, 1.0])
def test_label_table_rows(observed):
    labels = random_labels(5, n=100, c=30, observed=observed)
    labels[[0, 50, 99]] = 0  # no entry at either end and in the middle
    table = LabelTable(sparse(labels))
    assert (table.num_images, table.num_labels) == (100, 30)
    for index in ([7], [0], [50, 0, 99], [3, 3, 99, 1], np.arange(100)):
        rows = table.rows(tf.constant(index, tf.int32))
        assert rows.dtype == tf.int8
        np.testing.assert_array_equal(rows, labels[index])
    assert table.rows(tf.constant([], tf.int32)).shape == (0, 30)


def test_label_table_of_nothing_observed():
    table = LabelTable(scipy.sparse.csr_array((4, 3), dtype=np.int8))
    np.testing.assert_array_equal(
        table.rows(tf.constant([3, 0])), np.zeros((2, 3))
    )


def test_label_table_with_unsorted_columns():
    """CSR need not list a row's columns in order."""
    labels = scipy.sparse.csr_array(
        (np.array([1, -1], np.int8), np.array([2, 0]), np.array([0, 2])),
        shape=(1, 3),
    )
    rows = LabelTable(labels).rows(tf.constant([0]))
    np.testing.assert_array_equal(rows, [[-1, 0, 1]])


def test_label_table_inside_tf_data():
    labels = random_labels(6, n=23, c=5, observed=0.3)
    labels[20:] = 0
    table = LabelTable(sparse(labels))
    for drop_remainder in (True, False):
        batches = tf.data.Dataset.range(23).batch(4, drop_remainder)
        batches = batches.map(table.rows)
        assert batches.element_spec == tf.TensorSpec(
            [4 if drop_remainder else None, 5], tf.int8
        )
        rows = np.concatenate([*batches.as_numpy_iterator()])
        assert len(rows) == (20 if drop_remainder else 23)
        np.testing.assert_array_equal(rows, labels[: len(rows)])


# impute.


@forms
@pytest.mark.parametrize("ratio", [1.0, 2.0, 5.0])
def test_impute_against_the_formula(form, ratio):
    rng = np.random.default_rng(7)
    labels = random_labels(7, n=20)
    logits = rng.normal(scale=3, size=labels.shape).astype(np.float32)
    targets = impute(tf.constant(labels), tf.constant(logits), form, ratio)
    assert targets.dtype == tf.float32
    np.testing.assert_allclose(
        targets, IMPUTED[form](labels, logits, ratio), atol=1e-6
    )


@pytest.mark.parametrize(
    ("form", "ratio", "expected"),
    [
        # z = log 3, p = 3/4: 2 p - 1 = 1/2; from [-1, 1] to [-1/2, 1]:
        # -1/2 + (1/2 + 1) / 2 * 3/2 = 5/8. z = 0: 2 p - 1 = 0 to 1/4.
        ("paper", 2.0, [5 / 8, 1 / 4, 1, -1 / 2]),
        ("paper", 1.0, [1 / 2, 0, 1, -1]),
        # c = 2, e^u = 3 / sqrt 2, e^-u = sqrt 2 / 3, both times 3 sqrt 2:
        # (9 - 2/2) / (9 + 2) = 8/11. z = 0: (1 - 1) / (1 + 2) = 0.
        ("released", 2.0, [8 / 11, 0, 1, -1 / 2]),
        # c = 1: tanh(log 3) = (3 - 1/3) / (3 + 1/3) = 8/10.
        ("released", 1.0, [8 / 10, 0, 1, -1]),
    ],
)
def test_impute_by_hand(form, ratio, expected):
    labels = tf.constant([[0, 0, 1, -1]], tf.int8)
    logits = tf.constant([[np.log(3), 0, -7, 7]], tf.float32)
    np.testing.assert_allclose(
        impute(labels, logits, form, ratio), [expected], atol=1e-6
    )


def test_impute_by_default_as_the_paper():
    labels = tf.zeros([1, 1], tf.int8)
    logits = tf.constant([[np.log(3)]], tf.float32)
    np.testing.assert_allclose(impute(labels, logits), [[5 / 8]], atol=1e-6)


@forms
@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_impute_range(form, ratio):
    """[-1/c, 1], increasing, finite at extreme logits, gradients too."""
    logits = tf.constant([[-1e30, -1e4, -90, -1, 0, 1, 90, 1e4, 1e30]])
    labels = tf.zeros(logits.shape, tf.int8)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        targets = impute(labels, logits, form, ratio)
    values = targets.numpy()[0]
    np.testing.assert_allclose(values[[0, -1]], [-1 / ratio, 1], atol=1e-6)
    assert (values >= -1 / ratio - 1e-6).all() and (values <= 1 + 1e-6).all()
    assert (np.diff(values) >= 0).all() and (np.diff(values[2:6]) > 0).all()
    gradient = tape.gradient(targets, logits).numpy()
    assert np.isfinite(gradient).all() and (gradient[0, 3:6] > 0).all()


@forms
def test_impute_gradient_flows_at_unobserved_entries_alone(form):
    labels = random_labels(8, n=10)
    rng = np.random.default_rng(8)
    logits = rng.normal(size=labels.shape)
    with tf.GradientTape() as tape:
        z = tf.constant(logits, tf.float32)
        tape.watch(z)
        targets = impute(tf.constant(labels), z, form)
    gradient = tape.gradient(targets, z).numpy()
    assert (gradient[labels != 0] == 0).all()
    h = 1e-5
    numeric = IMPUTED[form](labels, logits + h)
    numeric = (numeric - IMPUTED[form](labels, logits - h)) / (2 * h)
    assert (gradient[labels == 0] > 0).all()
    np.testing.assert_allclose(gradient, numeric, atol=1e-5)


@forms
def test_impute_half_precision_logits(form):
    labels = random_labels(9, n=6)
    logits = np.random.default_rng(9).normal(size=labels.shape)
    logits = logits.astype(np.float16)
    targets = impute(tf.constant(labels), tf.constant(logits), form)
    assert targets.dtype == tf.float32
    np.testing.assert_allclose(
        targets, IMPUTED[form](labels, logits), atol=1e-6
    )


def test_impute_any_rank_and_compiled():
    labels = random_labels(10, n=8, c=6).reshape(2, 4, 6)
    logits = np.random.default_rng(10).normal(size=labels.shape)
    expected = oracles.impute_paper(labels, logits)
    for function in (impute, tf.function(impute)):
        np.testing.assert_allclose(
            function(tf.constant(labels), tf.constant(logits, tf.float32)),
            expected, atol=1e-6,
        )  # fmt: skip


def test_impute_errors():
    arguments = tf.zeros([1, 1], tf.int8), tf.zeros([1, 1])
    with pytest.raises(ValueError, match="paper or released, got 'tanh'"):
        impute(*arguments, "tanh")
    for form in IMPUTED:
        for ratio in (0.5, 0.0, -2.0, float("nan")):
            with pytest.raises(ValueError, match="positive_ratio must be >= 1"):
                impute(*arguments, form, ratio)
