"""Splits that are made, against what they promise."""

import numpy as np
import pytest
import scipy.sparse

from imcl_tf.data import splitting
from imcl_tf.data.splitting import keep, made_splits, read_kept, read_shares

SHARES = np.array([0.8, 0.1, 0.1])


def problem(number=400, num_labels=12, seed=0):
    """Ids and labels, from frequent to rare, three of ten observed."""
    rng = np.random.default_rng(seed)
    share = np.geomspace(0.5, 0.02, num_labels)
    labels = np.where(rng.random((number, num_labels)) < share, 1, -1)
    labels[rng.random(labels.shape) < 0.7] = 0
    ids = [f"{n:04d}.jpg" for n in range(number)]
    return ids, scipy.sparse.csr_array(labels.astype(np.int8))


class TestMadeSplits:
    def test_every_split_has_its_share_of_every_label(self):
        ids, labels = problem()
        splits = made_splits(ids, labels, np.arange(400), SHARES, 0)
        assert np.abs(np.bincount(splits) - [320, 40, 40]).max() <= 12
        dense = labels.toarray()
        for value in (1, -1):
            counts = np.array(
                [(dense[splits == n] == value).sum(axis=0) for n in range(3)]
            )
            total = counts.sum(axis=0)
            assert (total < 3).any() == (value == 1)
            assert (counts[:, total >= 3] > 0).all()
            # Chance is off by two standard deviations in one split of twenty.
            sigma = np.sqrt(total * SHARES[:, None] * (1 - SHARES)[:, None])
            off = np.abs(counts - SHARES[:, None] * total)
            assert (off <= np.maximum(1.5 * sigma, 1.5)).all()

    def test_each_split_gets_what_three_images_have(self):
        """Label n is present in 3 + n images and absent in no other."""
        labels = np.zeros((60, 5), np.int8)
        for n in range(5):
            labels[n * 10 : n * 10 + 3 + n, n] = 1
            labels[n * 10 + 7 : n * 10 + 10, n] = -1
        ids = [f"{n}" for n in range(60)]
        for seed in range(5):
            splits = made_splits(
                ids, scipy.sparse.csr_array(labels), np.arange(60), SHARES, seed
            )
            for split in range(3):
                for value in (1, -1):
                    assert (labels[splits == split] == value).any(0).all()

    def test_does_not_depend_on_the_order_of_images(self):
        ids, labels = problem(60, 4)
        groups = np.arange(60) // 2
        splits = made_splits(ids, labels, groups, SHARES, 3)
        order = np.random.default_rng(1).permutation(60)
        again = made_splits(
            [ids[i] for i in order], labels[order], groups[order], SHARES, 3
        )
        np.testing.assert_array_equal(again, splits[order])

    def test_depends_on_seed_and_names(self):
        ids, labels = problem(60, 4)
        splits = [
            made_splits(names, labels, np.arange(60), SHARES, seed).tolist()
            for names, seed in (
                (ids, 0), (ids, 1), (ids, -1), ([f"x{i}" for i in ids], 0)
            )
        ]  # fmt: skip
        assert len({*map(tuple, splits)}) == 4

    def test_groups_stay_together(self):
        ids, labels = problem(90, 4)
        groups = np.random.default_rng(2).integers(0, 30, 90)
        splits = made_splits(ids, labels, groups, SHARES, 0)
        for group in range(30):
            assert len({*splits[groups == group]}) <= 1
        assert np.bincount(splits, minlength=3).min() >= 3

    def test_shares(self):
        ids, labels = problem()
        shares = read_shares("50/20/30")
        splits = made_splits(ids, labels, np.arange(400), shares, 0)
        assert np.abs(np.bincount(splits) - [200, 80, 120]).max() <= 12

    @pytest.mark.parametrize("number", [3, 4, 10])
    def test_few_images(self, number):
        ids, labels = problem(number, 2)
        splits = made_splits(ids, labels, np.arange(number), SHARES, 0)
        assert np.bincount(splits, minlength=3).min() >= 1

    def test_no_label_is_observed(self):
        ids, _ = problem(30)
        labels = scipy.sparse.csr_array((30, 5), dtype=np.int8)
        splits = made_splits(ids, labels, np.arange(30), SHARES, 0)
        assert np.bincount(splits).tolist() == [24, 3, 3]

    def test_too_few(self):
        ids, labels = problem(5, 2)
        with pytest.raises(ValueError, match="5 images of 2 different looks"):
            made_splits(ids, labels, np.array([0, 0, 1, 1, 0]), SHARES, 0)

    def test_many_labels_are_balanced_by_chance(self, monkeypatch):
        """Only the two rarest are left to the algorithm."""
        ids, labels = problem()
        monkeypatch.setattr(splitting, "MOST_WORK", 400 * 2**2)
        splits = made_splits(ids, labels, np.arange(400), SHARES, 0)
        assert np.abs(np.bincount(splits) - [320, 40, 40]).max() <= 12


class TestReadShares:
    def test_is_read(self):
        np.testing.assert_allclose(read_shares("70/ 12.5/17.5"),
                                   [0.7, 0.125, 0.175])  # fmt: skip

    @pytest.mark.parametrize(
        "text", ["", "80/20", "80/10/5/5", "90/10/0", "110/-5/-5", "nan/1/1",
                 "80,10,10", "8/1/1", "inf/-inf/100"],
    )  # fmt: skip
    def test_refused(self, text):
        with pytest.raises(ValueError, match="such as 80/10/10, got"):
            read_shares(text)


class TestKept:
    def test_is_read_again(self, tmp_path):
        path = tmp_path / "splits" / "x.csv"
        keep(path, ["b, c", "NA", "a"], np.array([0, 2, 1]))
        assert path.read_text() == (
            'image,split\nNA,test\na,validation\n"b, c",train\n'
        )
        assert read_kept(path, ["NA", "a", "b, c"]).tolist() == [2, 1, 0]
        assert [p.name for p in path.parent.iterdir()] == ["x.csv"]

    @pytest.mark.parametrize(
        "text", ["", "image,split\n", "image,split\na,test\n",
                 "image,split\na,test\nb,eval\n", "image\na\nb\n", "\0"],
    )  # fmt: skip
    def test_damaged(self, tmp_path, text):
        path = tmp_path / "x.csv"
        assert read_kept(path, ["a", "b"]) is None
        path.write_text(text)
        assert read_kept(path, ["a", "b"]) is None
