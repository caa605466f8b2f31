"""SavedModel for inference: encoded images in, probabilities out."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

from imcl_tf.backbones import SQUASHED, Resizing
from imcl_tf.dataset import decode_and_resize
from imcl_tf.files import replacing
from imcl_tf.multilabel import MultiLabelModel


def export_saved_model(
    model: MultiLabelModel,
    label_names: tuple[str, ...],
    image_size: int,
    path: Path,
    resizing: Resizing = SQUASHED,
):
    """Writes a SavedModel that opens with TensorFlow alone.

    Its signature `serving_default` takes `images` [B] string (JPEG or PNG
    bytes) and returns `probabilities` [B, C] float32 and `labels` [C] string.

    Args:
      model: built; called on images [B, S, S, 3].
      label_names: C names.
      image_size: S.
      path: directory to write, replaced if it exists.
      resizing: of images to S x S.
    """

    def serve(images):
        pixels = tf.map_fn(
            lambda encoded: decode_and_resize(encoded, image_size, resizing),
            images,
            fn_output_signature=tf.TensorSpec(
                [image_size, image_size, 3], tf.uint8
            ),
        )
        return {
            "probabilities": tf.sigmoid(model(pixels, training=False)),
            "labels": tf.constant(label_names),
        }

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        serve,
        input_signature=[tf.TensorSpec([None], tf.string, name="images")],
    )
    with replacing(path) as unfinished:
        archive.write_out(str(unfinished), verbose=False)
