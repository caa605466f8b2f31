"""The dictionary: which images it holds, and what it stores of them."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from imcl_tf.methods.dictionary import Dictionary, class_balanced_subset
from imcl_tf.ops import workers
from imcl_tf.ops.labels import LabelTable


def sparse(labels):
    return scipy.sparse.csr_array(np.asarray(labels, np.int8))


def random_labels(seed=0, n=600, c=20):
    """Frequent and rare labels; a third of the images shows nothing."""
    rng = np.random.default_rng(seed)
    rate = np.geomspace(0.005, 0.3, c)
    labels = np.where(rng.random((n, c)) < rate, 1, -1)
    labels[rng.permutation(n)[: n // 3]] = -1
    return np.where(rng.random((n, c)) < 0.7, labels, 0).astype(np.int8)


# class_balanced_subset.


@pytest.mark.parametrize("size", [1, 7, 150, 599])
def test_subset_is_sorted_and_distinct(size):
    chosen = class_balanced_subset(sparse(random_labels()), size, seed=0)
    assert chosen.dtype == np.int64 and chosen.shape == (size,)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0 and chosen[-1] < 600


@pytest.mark.parametrize("size", [600, 601, 10**9])
def test_subset_of_at_least_all_is_all(size):
    chosen = class_balanced_subset(sparse(random_labels()), size, seed=0)
    np.testing.assert_array_equal(chosen, np.arange(600))


@pytest.mark.parametrize("seed", range(3))
def test_each_label_gets_its_positives(seed):
    """20 labels, 10 images each at most: 200 are enough for everyone."""
    labels = random_labels(seed)
    positives = labels == 1
    assert positives.sum(0).min() < 10 < positives.sum(0).max()
    chosen = class_balanced_subset(sparse(labels), 200, seed)
    available = np.minimum(positives.sum(0), 10)
    assert (positives[chosen].sum(0) >= available).all()
    # Another aim.
    chosen = class_balanced_subset(
        sparse(labels), 60, seed, positives_per_label=3
    )
    available = np.minimum(positives.sum(0), 3)
    assert (positives[chosen].sum(0) >= available).all()


def test_rare_labels_come_first():
    """A room for 6: 2 of label 2, 4 of label 1, none is left for label 0.

    Label 0 stands on images 0-79, label 1 on 80-83, label 2 on 90 and 91;
    negatives do not count.
    """
    labels = -np.ones((100, 3), np.int8)
    labels[:80, 0] = 1
    labels[80:84, 1] = 1
    labels[90:92, 2] = 1
    for seed in range(3):
        np.testing.assert_array_equal(
            class_balanced_subset(sparse(labels), 6, seed),
            [80, 81, 82, 83, 90, 91],
        )
        np.testing.assert_array_equal(
            class_balanced_subset(sparse(labels), 2, seed), [90, 91]
        )
    # Room for 4 more: label 0, and no image without positives.
    chosen = class_balanced_subset(sparse(labels), 10, seed=0)
    assert (chosen < 80).sum() == 4 and len(chosen) == 10


def test_images_of_an_earlier_label_count_for_later_ones():
    """10 images show both labels, 50 the frequent one alone.

    The rare label takes the 10, with which the frequent one has its share, so
    that of a room for 12 only 2 come from the 50 (when the aim is raised).
    """
    labels = np.zeros((80, 2), np.int8)
    labels[:60, 0] = 1
    labels[:10, 1] = 1
    chosen = class_balanced_subset(sparse(labels), 12, seed=0)
    np.testing.assert_array_equal(chosen[:10], np.arange(10))
    assert ((chosen[10:] >= 10) & (chosen[10:] < 60)).all()


def test_room_that_is_left_raises_the_aim_evenly():
    """Two labels of 100 images each, room for 60: 10 + 10, 20 + 20, then
    the aim is 40 and the rarest goes first: 40 + 20.
    """
    labels = np.zeros((250, 2), np.int8)
    labels[:100, 0] = 1
    labels[100:201, 1] = 1
    chosen = class_balanced_subset(sparse(labels), 60, seed=0)
    assert (chosen < 100).sum() == 40
    assert ((chosen >= 100) & (chosen < 201)).sum() == 20
    chosen = class_balanced_subset(sparse(labels), 40, seed=0)
    assert (chosen < 100).sum() == 20


def test_images_without_positives_come_last():
    labels = random_labels(3)
    shows = (labels == 1).any(1)
    count = int(shows.sum())
    assert 50 < count < 550
    chosen = class_balanced_subset(sparse(labels), count, seed=0)
    np.testing.assert_array_equal(chosen, np.flatnonzero(shows))
    chosen = class_balanced_subset(sparse(labels), count + 5, seed=0)
    assert shows[chosen].sum() == count


def test_subset_without_any_positive():
    chosen = class_balanced_subset(sparse(-np.ones((50, 3))), 20, seed=0)
    assert len(set(chosen)) == 20
    nothing = scipy.sparse.csr_array((50, 3), dtype=np.int8)
    assert len(set(class_balanced_subset(nothing, 20, seed=0))) == 20


def test_subset_seed():
    labels = sparse(random_labels(4))
    first, again, other = (
        class_balanced_subset(labels, 100, seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_subset_is_a_random_choice():
    """Not the first images: 10 of 500 that show the label."""
    labels = np.ones((500, 1))
    chosen = class_balanced_subset(sparse(labels), 10, seed=0)
    assert chosen.max() > 250
    # Nor among those without positives.
    chosen = class_balanced_subset(sparse(-labels), 10, seed=0)
    assert chosen.max() > 250


@pytest.mark.parametrize("positives_per_label", [0, -1])
def test_subset_error(positives_per_label):
    """Twice 0 is 0: the aim would never rise."""
    with pytest.raises(ValueError, match="positives_per_label must be >= 1"):
        class_balanced_subset(
            sparse(random_labels()), 5, 0, positives_per_label
        )


# Dictionary.

N, C, D = 30, 4, 3
INDEX = np.array([2, 3, 11, 17, 29])


def make(index=INDEX, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], size=(N, C)).astype(np.int8)
    inputs = rng.normal(size=(len(index), 2)).astype(np.float32)
    dictionary = Dictionary(index, LabelTable(sparse(labels)), D, inputs)
    return dictionary, inputs, labels


def test_slots_of():
    dictionary, *_ = make()
    assert len(dictionary) == 5
    images = tf.constant([2, 29, 0, -1, 17, 28, 3, 11, 2], tf.int32)
    slots = dictionary.slots_of(images)
    assert slots.dtype == tf.int32
    np.testing.assert_array_equal(slots, [0, 4, -1, -1, 3, -1, 1, 2, 0])
    np.testing.assert_array_equal(
        tf.function(dictionary.slots_of)(images), slots
    )
    everywhere = dictionary.slots_of(tf.range(N)).numpy()
    assert (everywhere >= 0).sum() == 5


def test_image_without_a_number_is_nowhere_though_the_last_is_stored():
    """-1 must not wrap to image N - 1, which stands in slot 4."""
    dictionary, *_ = make()
    np.testing.assert_array_equal(
        dictionary.slots_of(tf.constant([-1, 29])), [-1, 4]
    )
    # Nor is it image 0, stored or not.
    dictionary, *_ = make([0, 29])
    np.testing.assert_array_equal(
        dictionary.slots_of(tf.constant([-1, 0, 29])), [-1, 0, 1]
    )


def test_labels_of_slots():
    dictionary, _, labels = make()
    got = dictionary.labels(tf.constant([4, 0, 0, 2]))
    assert got.dtype == tf.int8
    np.testing.assert_array_equal(got, labels[[29, 2, 2, 11]])


def test_refresh():
    """Entries are encoded from their own inputs and labels, others stay."""
    dictionary, inputs, labels = make()
    assert not dictionary.features.numpy().any()
    assert dictionary.features.shape == (5, D)
    assert dictionary.label_atoms.shape == (5, C)

    def encode(x, y):
        assert y.dtype == tf.int8
        features = tf.concat([2 * x, tf.reduce_sum(x, 1, keepdims=True)], 1)
        return features, 10 * tf.cast(y, tf.float32) + x[:, :1]

    for turn in ([3, 0], [4], [1, 2]):
        before = dictionary.features.numpy(), dictionary.label_atoms.numpy()
        dictionary.refresh(encode, tf.constant(turn))
        others = np.setdiff1d(np.arange(5), turn)
        for stored, old in zip(
            (dictionary.features, dictionary.label_atoms), before, strict=True
        ):
            assert stored.dtype == tf.float16
            np.testing.assert_array_equal(stored.numpy()[others], old[others])
    # To half precision.
    expected = np.concatenate([2 * inputs, inputs.sum(1, keepdims=True)], 1)
    np.testing.assert_allclose(dictionary.features, expected, rtol=1e-3)
    np.testing.assert_allclose(
        dictionary.label_atoms, 10 * labels[INDEX] + inputs[:, :1], rtol=1e-3,
        atol=1e-5,
    )  # fmt: skip


def test_what_half_precision_does_not_hold_is_kept_within_its_range():
    dictionary, *_ = make()
    huge = tf.constant([[1e6, -1e9, 3.0]])
    dictionary.refresh(lambda x, y: (huge, tf.zeros([1, C])), tf.constant([2]))
    np.testing.assert_array_equal(
        dictionary.features[2], [65504.0, -65504.0, 3.0]
    )


def test_stored_arrays_are_not_trained():
    dictionary, *_ = make()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(dictionary.features)
    assert not dictionary.features.trainable
    assert not dictionary.label_atoms.trainable
    assert tape.gradient(total, dictionary.features) is None


def test_image_inputs_keep_their_type():
    images = np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3)
    dictionary = Dictionary(
        INDEX, LabelTable(scipy.sparse.csr_array((N, C), dtype="i1")), D, images
    )
    seen = []

    def encode(x, y):
        seen.append(x)
        return tf.zeros([len(x), D]), tf.zeros([len(x), C])

    dictionary.refresh(encode, tf.constant([4, 1]))
    (images_seen,) = seen
    assert images_seen.dtype == tf.uint8
    np.testing.assert_array_equal(images_seen, images[[4, 1]])


def test_each_worker_has_an_image(monkeypatch):
    monkeypatch.setattr(workers, "_current", workers.Workers(0, len(INDEX)))
    assert len(make()[0].own_index) == 1
    monkeypatch.setattr(workers, "_current", workers.Workers(0, len(INDEX) + 1))
    with pytest.raises(ValueError, match="dictionary_size: .* be divided"):
        make()
