"""The weights of a network by depth."""

import keras
import numpy as np

from imcl_tf.backbones.depth import layer_groups

layers = keras.layers


def names(network):
    return [
        ["/".join(v.path.split("/")[-2:]) for v in group]
        for group in layer_groups(network)
    ]


def test_last_layers_first_and_a_normalisation_with_its_layer():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="first"),
            layers.BatchNormalization(name="of_first"),
            layers.ReLU(),
            layers.Dense(2, name="second", use_bias=False),
        ]
    )
    assert names(network) == [
        ["second/kernel"],
        ["first/kernel", "first/bias", "of_first/gamma", "of_first/beta"],
    ]


def test_layers_of_networks_within_stand_in_their_place():
    """As after a preprocessing; a layer that is used twice is counted once."""
    inner = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="a"),
            layers.Dense(4, name="b"),
        ]
    )
    image = keras.Input((4,))
    last = layers.Dense(4, name="c", use_bias=False)
    network = keras.Model(image, last(last(inner(image))))
    assert names(network) == [
        ["c/kernel"], ["b/kernel", "b/bias"], ["a/kernel", "a/bias"]
    ]  # fmt: skip


def test_weights_of_the_network_itself_are_the_lowest():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.top = layers.Dense(2, name="top", use_bias=False)
            self.token = self.add_weight(shape=(3,), name="token")

        def call(self, x):
            return self.top(x + self.token)

    network = Own()
    network(np.zeros((1, 3), np.float32))
    (group,) = layer_groups(network)
    assert {v.name for v in group} == {"kernel", "token"}


def test_at_most_twelve_groups_hold_every_variable_once():
    """30 layers: six groups of three, six of two."""
    stack = [layers.Dense(2, use_bias=False) for _ in range(30)]
    network = keras.Sequential([keras.Input((2,)), *stack])
    groups = layer_groups(network)
    assert sorted(map(len, groups)) == [2] * 6 + [3] * 6
    flat = [id(v) for group in reversed(groups) for v in group]
    assert flat == [id(layer.kernel) for layer in stack]


def test_a_network_without_weights_has_no_group():
    assert layer_groups(keras.Sequential([keras.Input((2,))])) == []
