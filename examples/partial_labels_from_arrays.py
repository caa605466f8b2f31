"""IMCL on arrays: features and labels in memory, no files.

    python examples/partial_labels_from_arrays.py

The labels are -1 (absent), +1 (present) or 0 (unobserved). Here a random linear
model makes them, and nine in ten of the training labels are hidden.
"""

import keras
import numpy as np
import tensorflow as tf

import imcl_tf

IMAGES, TESTED, FEATURES, LABELS = 1000, 500, 32, 12


def make_data():
    """Features [N, d] float32 and labels [N, C] int8, all observed.

    Pictures come in 40 kinds; pictures of a kind are alike in both.
    """
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(40, FEATURES))
    kind = rng.integers(40, size=IMAGES + TESTED)
    features = kinds[kind] + 0.7 * rng.normal(size=(len(kind), FEATURES))
    scores = kinds @ rng.normal(size=(FEATURES, LABELS)) - 3
    labels = np.where(scores[kind] > 0, 1, -1)
    return features.astype(np.float32), labels.astype(np.int8)


def main():
    keras.utils.set_random_seed(0)
    features, labels = make_data()
    train, test = features[:IMAGES], features[IMAGES:]
    observed = imcl_tf.hide_labels(labels[:IMAGES], 0.1, seed=0).toarray()

    # Minibatches as tf.data. `image_index` numbers the training images, which
    # lets IMCL keep a dictionary of them; without it the candidates of an
    # image are its minibatch alone.
    batches = tf.data.Dataset.from_tensor_slices(
        ({"inputs": train, "image_index": tf.range(IMAGES)}, observed)
    )
    batches = batches.shuffle(IMAGES, seed=0).batch(32)

    # The inputs are the features, so there is no backbone.
    graph = imcl_tf.LabelGraph.from_cooccurrence(observed, num_neighbors=5)
    model = imcl_tf.IMCL(
        None,
        LABELS,
        label_graph=graph,
        loss_scale="absolute",
        lambda_y=0.3,
        lambda_f=0.05,
        dictionary_size=500,
    )
    model.compile(keras.optimizers.RMSprop(0.01))
    model.fit(batches, epochs=10, verbose=2)
    precision = imcl_tf.average_precision(labels[IMAGES:], model(test).numpy())
    print(f"test mAP {100 * np.nanmean(precision):.2f}")

    # Algorithm 2 on its own: the five training images most similar to each
    # test image, in features and in labels. Labels that are not observed are
    # the model's, eq. (3).
    targets = tf.tanh(model(test))
    completed = tf.where(observed != 0, observed, tf.tanh(model(train)))
    atoms = graph(completed)
    similar = imcl_tf.joint_nonnegative_omp(
        targets, test, atoms, train, num_neighbors=5, lambda_y=0.1, lambda_f=1.0
    )
    print("images similar to the first test image:", similar.indices[0].numpy())
    print("with weights:", similar.feature_weights[0].numpy().round(2))


if __name__ == "__main__":
    main()
