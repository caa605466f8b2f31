"""NumPy references, float64, one image at a time, straight from the text.

Nothing here imports `imcl_tf`: each function is a second derivation.
"""

import numpy as np

# "Zero" for float64 quantities that vanish in exact arithmetic, as a share of
# the norms they are made of.
_ROUNDING = 1e-9


def _shares(residual, atoms):
    """<r, a>^2 / ||a||^2 of each atom, 0 for a zero atom."""
    squares = (atoms**2).sum(1)
    used = squares > 0
    return np.where(
        used, (atoms @ residual) ** 2 / np.where(used, squares, 1), 0.0
    )


def _least_squares(target, atoms):
    """argmin_w ||target - w @ atoms||, 0 for atoms dependent on earlier ones.

    Without dependent atoms the minimum is unique; with them the text leaves
    the choice open, and the later atom is the superfluous one.
    """
    independent = []
    for t in range(len(atoms)):
        rows = atoms[[*independent, t]]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1)[:, None], 1e-300)
        if np.linalg.matrix_rank(rows, tol=1e-6) == len(rows):
            independent.append(t)
    weights = np.zeros(len(atoms))
    weights[independent] = np.linalg.lstsq(
        atoms[independent].T, target, rcond=None
    )[0]
    return weights


def _positive(correlation, target, atom):
    bound = _ROUNDING * np.linalg.norm(target) * np.linalg.norm(atom)
    return correlation > bound


def joint_nonnegative_omp(
    y, f, label_atoms, feature_atoms, k, lambda_y, lambda_f, exclude=()
):
    """Algorithm 2 of the paper for one image.

    Returns (indices, c, c_bar), each [t] with t <= k images selected.
    """
    y, f = np.asarray(y, float), np.asarray(f, float)
    label_atoms = np.asarray(label_atoms, float)
    feature_atoms = np.asarray(feature_atoms, float)
    support, c, c_bar = [], np.zeros(0), np.zeros(0)
    r_y, r_f = y, f
    for _ in range(k):
        score = lambda_y * _shares(r_y, label_atoms)
        score = score + lambda_f * _shares(r_f, feature_atoms)
        allowed = np.ones(len(score), bool)
        allowed[support] = False
        allowed[[e for e in exclude if e >= 0]] = False
        if not allowed.any():
            break
        s = int(np.argmax(np.where(allowed, score, -np.inf)))
        if not _positive(r_y @ label_atoms[s], y, label_atoms[s]):
            break
        if not _positive(r_f @ feature_atoms[s], f, feature_atoms[s]):
            break
        support.append(s)
        c = np.maximum(_least_squares(y, label_atoms[support]), 0)
        c_bar = np.maximum(_least_squares(f, feature_atoms[support]), 0)
        r_y = y - c @ label_atoms[support]
        r_f = f - c_bar @ feature_atoms[support]
    return np.array(support, int), c, c_bar


def released_omp(
    y, f, label_atoms, feature_atoms, k, lambda_y, lambda_f,
    exclude=(), threshold=1e-6,
):  # fmt: skip
    """The released code's solver for one image, returns as above."""
    y, f = np.asarray(y, float), np.asarray(f, float)
    label_atoms = np.asarray(label_atoms, float)
    feature_atoms = np.asarray(feature_atoms, float)
    largest = max(lambda_y, lambda_f)
    lambda_y, lambda_f = lambda_y / largest, lambda_f / largest
    support, c, c_bar = [], np.zeros(0), np.zeros(0)
    r_y, r_f = y, f
    for _ in range(k):
        score = lambda_y * _shares(r_y, label_atoms)
        score = score + lambda_f * _shares(r_f, feature_atoms)
        score = score * (
            np.sign(label_atoms @ r_y) + np.sign(feature_atoms @ r_f)
        )
        score[[e for e in exclude if e >= 0]] = -np.inf
        s = int(np.argmax(score))
        # Slots are filled with 0 beforehand, so later a candidate 0 looks
        # already chosen.
        chosen = s in support or (s == 0 and len(support) > 0)
        if not score[s] >= threshold or chosen:
            break
        support.append(s)
        c = _least_squares(y, label_atoms[support])
        c_bar = _least_squares(f, feature_atoms[support])
        r_y = y - c @ label_atoms[support]
        r_f = f - c_bar @ feature_atoms[support]
    return np.array(support, int), c, c_bar


def solve_all(
    solver, y, f, label_atoms, feature_atoms, k, lambda_y, lambda_f,
    exclude=None, **options,
):  # fmt: skip
    """`solver` for each image; padded (indices, c, c_bar), [B, k] each."""
    indices = np.full((len(y), k), -1)
    c, c_bar = np.zeros((len(y), k)), np.zeros((len(y), k))
    for i in range(len(y)):
        out = () if exclude is None else np.atleast_1d(exclude[i])
        found = solver(
            y[i], f[i], label_atoms, feature_atoms, k, lambda_y, lambda_f,
            exclude=out, **options,
        )  # fmt: skip
        t = len(found[0])
        indices[i, :t], c[i, :t], c_bar[i, :t] = found
    return indices, c, c_bar


def impute_paper(labels, logits, positive_ratio=2.0):
    """Eq. (3), then [-1, 1] to [-1/c, 1] linearly (sec. 4.3)."""
    labels, logits = np.asarray(labels), np.asarray(logits, float)
    p = 1 / (1 + np.exp(-logits))
    y = np.where(labels == 0, 2 * p - 1, labels)
    low = -1 / positive_ratio
    return low + (y + 1) / 2 * (1 - low)


def impute_released(labels, logits, positive_ratio=2.0):
    """Asymmetric sigmoid of the logit; observed clipped to [-1/c, 10]."""
    labels, logits = np.asarray(labels), np.asarray(logits, float)
    u = logits + 0.5 * np.log(1 / positive_ratio)
    imputed = (np.exp(u) - np.exp(-u) / positive_ratio) / (
        np.exp(u) + np.exp(-u)
    )
    return np.where(
        labels == 0, imputed, np.clip(labels, -1 / positive_ratio, 10)
    )


def cross_entropy(labels, logits):
    """Eq. (2) for one image, with its logarithms."""
    total = 0.0
    for label, z in zip(labels, np.asarray(logits, float), strict=True):
        p = 1 / (1 + np.exp(-z))
        if label == 1:
            total -= np.log(p)
        elif label == -1:
            total -= np.log(1 - p)
    return total


def join_classes(vectors, classes, num_classes, class_weight):
    """Sec. 4.6: each row with a one-hot of magnitude a, zeros for class -1."""
    joined = []
    for vector, number in zip(vectors, classes, strict=True):
        side = np.zeros(num_classes)
        if number >= 0:
            side[number] = class_weight
        joined.append(np.concatenate([vector, side]))
    return np.array(joined)


def label_smoothness(y, c, label_atoms, form="tanh", num_labels=None):
    """Eq. (5) for one image: `c` [t], the A y of its neighbours [t, C].

    What is joined to the labels, after the first `num_labels`, has no tanh.
    """
    reconstructed = np.zeros(len(y))
    for weight, atom in zip(c, label_atoms, strict=True):
        reconstructed = reconstructed + weight * np.asarray(atom, float)
    if form == "tanh":
        reconstructed[:num_labels] = np.tanh(reconstructed[:num_labels])
    return float(((y - reconstructed) ** 2).sum())


def feature_smoothness(f, c_bar, feature_atoms):
    """Eq. (6) for one image."""
    return label_smoothness(f, c_bar, feature_atoms, form="linear")


def cooccurrence_graph(labels, num_neighbors):
    """Dense A from observed positives, row j = incoming weights of label j."""
    positive = np.asarray(labels) == 1
    num_labels = positive.shape[1]
    graph = np.zeros((num_labels, num_labels))
    for j in range(num_labels):
        n = [int((positive[:, j] & p).sum()) for p in positive.T]
        others = [j2 for j2 in range(num_labels) if j2 != j and n[j2] > 0]
        others.sort(key=lambda j2, n=n: (-n[j2], j2))
        graph[j, j] = 1
        for j2 in others[: num_neighbors - 1]:
            graph[j, j2] = n[j2] / n[j]
        graph[j] /= graph[j].sum()
    return graph
