"""Pictures of similarities, pixel by pixel."""

import numpy as np
import pytest
import scipy.sparse

from imcl_tf.methods import pictures


def graph(matrix):
    return scipy.sparse.csr_array(np.asarray(matrix, np.float32))


# label_graph.


@pytest.mark.parametrize(
    ("num_labels", "size"),
    # 512 // 3 = 170, 512 // 100 = 5, 512 // 128 = 4.
    [(1, 512), (3, 510), (100, 500), (128, 512), (300, 512)],
)
def test_label_graph_size(num_labels, size):
    picture = pictures.label_graph(graph(np.eye(num_labels)))
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_label_graph_colours():
    """White is 0; blue > 0, red < 0; the strongest is the deepest.

    a = 1: (1 - 1, 1 - 0.7, 1) * 255 = (0, 76.5, 255); a = -1/2:
    (1, 1 - 0.35, 1 - 1/2) * 255 = (255, 165.75, 127.5).
    """
    picture = pictures.label_graph(graph([[2, -1], [0, 2]]))
    assert picture.shape == (512, 512, 3)
    quarters = picture.reshape(2, 256, 2, 256, 3).swapaxes(1, 2).astype(int)
    # Each quarter is one colour.
    assert (np.ptp(quarters, axis=(2, 3)) == 0).all()
    colours = quarters[:, :, 0, 0]
    np.testing.assert_allclose(colours[0, 0], [0, 76.5, 255], atol=1)
    np.testing.assert_allclose(colours[0, 1], [255, 165.75, 127.5], atol=1)
    np.testing.assert_array_equal(colours[1, 0], [255, 255, 255])
    np.testing.assert_array_equal(colours[1, 1], colours[0, 0])


def test_label_graph_of_zeros_is_white():
    picture = pictures.label_graph(graph(np.zeros((4, 4))))
    assert (picture == 255).all()


def test_label_graph_draws_the_strongest_labels():
    """Of 200 labels 128 are shown, in their order; a label counts by its
    incoming and outgoing weights, whatever their sign."""
    matrix = np.zeros((200, 200))
    strong = np.sort(np.random.default_rng(0).permutation(200)[:128])
    matrix[strong, strong] = 1
    # Only incoming and only outgoing weight: each outranks an idle label.
    first, last = strong[0], strong[-1]
    matrix[first, first] = matrix[last, last] = 0
    matrix[first, last] = -1
    picture = pictures.label_graph(graph(matrix))
    cells = picture[::4, ::4]
    assert cells.shape == (128, 128, 3)
    blue = (cells == cells[1, 1]).all(2) & (cells[..., 0] == 0)
    expected = np.eye(128, dtype=bool)
    expected[0, 0] = expected[-1, -1] = False
    np.testing.assert_array_equal(blue, expected)
    np.testing.assert_array_equal(cells[0, -1], [255, 76, 0])


# strongest_edges.


def test_strongest_edges():
    text = pictures.strongest_edges(
        graph([[9, 0.5, 0], [-2, 9, 0.25], [1, 0, 9]]), ("cat", "dog", "sky")
    )
    assert text.split("\n") == [
        "| label | follows from | weight |",
        "|---|---|---|",
        "| dog | cat | -2.000 |",
        "| sky | cat | 1.000 |",
        "| cat | dog | 0.500 |",
        "| dog | sky | 0.250 |",
    ]


def test_strongest_edges_are_limited():
    matrix = np.arange(1, 26).reshape(5, 5)
    names = tuple("abcde")
    text = pictures.strongest_edges(graph(matrix), names, maximum=3)
    lines = text.split("\n")
    # Row 4 is 21, 22, 23, 24 and 25, which is e itself.
    assert lines[2:] == [
        "| e | d | 24.000 |", "| e | c | 23.000 |", "| e | b | 22.000 |",
    ]  # fmt: skip
    lines = pictures.strongest_edges(graph(matrix), names).split("\n")
    assert len(lines) == 2 + 20
    lines = pictures.strongest_edges(graph(np.ones((9, 9))), "abcdefghi")
    assert len(lines.split("\n")) == 2 + 30


def test_strongest_edges_of_equal_weight_keep_their_order():
    names = [str(n) for n in range(20)]
    text = pictures.strongest_edges(
        graph(np.ones((20, 20))), names, maximum=400
    )
    got = [line.split(" | ")[:2] for line in text.split("\n")[2:]]
    assert got == [
        [f"| {j}", f"{other}"]
        for j in range(20)
        for other in range(20)
        if other != j
    ]


def test_a_name_cannot_break_the_table():
    text = pictures.strongest_edges(graph([[0, 1], [0, 0]]), ("a|b", "c"))
    assert text.split("\n")[2] == r"| a\|b | c | 1.000 |"


def test_strongest_edges_of_the_identity():
    text = pictures.strongest_edges(graph(np.eye(3)), ("a", "b", "c"))
    assert len(text.split("\n")) == 2


# similarities.

SIZE = 10
BAR = 6
BLUE = (31, 119, 180)


def thumbnails(numbers):
    """Image n in the colour (n, 2 n, 3 n), its corner marked."""
    numbers = np.asarray(numbers)
    assert len(np.unique(numbers)) == len(numbers)
    colours = numbers[:, None] * [1, 2, 3]
    images = np.tile(colours[:, None, None], (1, SIZE, SIZE, 1))
    images[:, 0, 0] = 7
    return images.astype(np.uint8)


def snapshot(indices, weights, image_index):
    """Of images whose candidates, the first of which they are, have numbers."""
    indices, numbers = np.asarray(indices), np.asarray(image_index)
    chosen = np.where(indices < 0, -1, numbers[indices])
    own = numbers[: len(indices)]
    none = np.zeros(0)
    return pictures.Snapshot(none, none, own, chosen, weights, weights)


def tile(picture, row, column):
    """(thumbnail [S, S, 3], bar [6, S, 3])"""
    both = picture[
        row * (SIZE + BAR) : (row + 1) * (SIZE + BAR),
        column * SIZE : (column + 1) * SIZE,
    ]
    return both[:SIZE], both[SIZE:]


def test_montage():
    """Candidates 0, 1 are the minibatch (images 50, 51), 2 to 4 the
    dictionary (images 60, 61, 62). Weights relative to the largest, 0.8.
    """
    indices = np.array([[3, 1, -1], [-1, -1, -1]])
    weights = np.array([[0.8, 0.4, 0], [0, 0, 0]], np.float32)
    image_index = np.array([50, 51, 60, 61, 62])
    picture = pictures.similarities(
        snapshot(indices, weights, image_index), thumbnails
    )
    assert picture.shape == (2 * (SIZE + BAR), 4 * SIZE, 3)
    assert picture.dtype == np.uint8
    images = [[50, 61, 51, None], [51, None, None, None]]
    lengths = [[0, 10, 5, 0], [0, 0, 0, 0]]
    for row in range(2):
        for column in range(4):
            image, bar = tile(picture, row, column)
            number = images[row][column]
            expected = (
                np.full((SIZE, SIZE, 3), 255)
                if number is None
                else thumbnails([number])[0]
            )
            np.testing.assert_array_equal(image, expected)
            expected = np.full((BAR, SIZE, 3), 255)
            expected[:, : lengths[row][column]] = BLUE
            np.testing.assert_array_equal(bar, expected)


def test_montage_draws_an_image_once_for_many_places():
    """Every image chooses candidate 0: `thumbnails` sees distinct numbers."""
    asked = []

    def counting(numbers):
        asked.extend(numbers)
        return thumbnails(numbers)

    picture = pictures.similarities(
        snapshot(np.zeros((3, 2), int), np.ones((3, 2)), [9, 5, 9]), counting
    )
    assert sorted(asked) == [5, 9]
    for row, own in enumerate((9, 5, 9)):
        np.testing.assert_array_equal(
            tile(picture, row, 0)[0], thumbnails([own])[0]
        )
        for column in (1, 2):
            np.testing.assert_array_equal(
                tile(picture, row, column)[0], thumbnails([9])[0]
            )


def test_montage_of_many_images_shows_eight():
    picture = pictures.similarities(
        snapshot(np.full((20, 1), -1), np.zeros((20, 1)), np.arange(20)),
        thumbnails,
    )
    assert picture.shape == (8 * (SIZE + BAR), 2 * SIZE, 3)
    for row in range(8):
        np.testing.assert_array_equal(
            tile(picture, row, 0)[0], thumbnails([row])[0]
        )


def test_montage_without_similar_images():
    """All weights 0: no bar, no division by 0."""
    picture = pictures.similarities(
        snapshot(np.full((2, 3), -1), np.zeros((2, 3)), np.arange(2)),
        thumbnails,
    )
    for row in range(2):
        for column in range(4):
            image, bar = tile(picture, row, column)
            assert (bar == 255).all()
            assert (image == 255).all() == (column > 0)


def test_negative_weight_has_no_bar():
    """The released solver's weights may be negative."""
    picture = pictures.similarities(
        snapshot([[0, 0]], np.array([[-3.0, 1.5]]), np.arange(1)), thumbnails
    )
    assert (tile(picture, 0, 1)[1] == 255).all()
    assert (tile(picture, 0, 2)[1] == BLUE).all()


def test_montage_leaves_its_inputs_alone():
    weights = np.array([[0.5, 0.0]])
    given = snapshot([[0, -1]], weights, np.arange(1))
    store = thumbnails([0])
    pictures.similarities(given, lambda n: store)
    np.testing.assert_array_equal(store, thumbnails([0]))
    np.testing.assert_array_equal(given.neighbors, [[0, -1]])
    np.testing.assert_array_equal(weights, [[0.5, 0]])
