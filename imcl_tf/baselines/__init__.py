"""The methods that stand beside IMCL, one file each; this lists them."""

from imcl_tf.baselines import (  # noqa: F401
    assume_negative,
    asymmetric,
    cnn_rnn,
    curriculum,
    entropy_maximisation,
    fast0tag,
    hill,
    large_loss,
    latent_noise,
    lsep,
    selective,
    smoothed_assume_negative,
    splc,
    weak_assume_negative,
    wsabie,
)
