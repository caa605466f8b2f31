"""A method of one's own, trained on a folder `pictures` by one run.

python examples/own_method.py
"""

import tensorflow as tf

import imcl_tf
from imcl_tf.ops import losses


@imcl_tf.register_method("expected_positive")
class ExpectedPositive(imcl_tf.MultiLabelModel):
    """Cole et al., CVPR 2021, on whatever labels are observed."""

    TERMS = ("loss", "expected_positives_loss")
    OPTIONS = (
        imcl_tf.Option(
            "expected_positives", 3.0, "Positives per image, k.", minimum=0
        ),
        imcl_tf.Option(
            "expected_weight", 1.0, "Weight of the squared distance.", minimum=0
        ),
    )

    def loss_terms(self, features, batch):
        logits = self.scores(features)
        observed = losses.cross_entropy(batch.labels, logits)
        number = tf.reduce_mean(tf.reduce_sum(tf.sigmoid(logits), 1))
        distance = (number - self.expected_positives) / self.num_labels
        weighted = self.expected_weight * distance**2
        return {
            "loss": tf.reduce_mean(observed) + weighted,
            "expected_positives_loss": weighted,
        }


def main():
    data = imcl_tf.load_dataset("folder", "pictures")
    options = imcl_tf.presets.load("folder")
    backbone = imcl_tf.backbone(options.pop("backbone"))
    options |= {"initial_epochs": 3, "epochs": 2}  # fewer than the preset
    results = imcl_tf.run(
        data,
        backbone,
        ExpectedPositive,
        "runs/expected",
        **options,
        expected_positives=2.0,
    )
    print(f"test mAP {results['mAP']:.2f}")


if __name__ == "__main__":
    main()
