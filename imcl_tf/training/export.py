"""SavedModel for inference: images or features in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from imcl_tf.backbones.pictures import picture_format
from imcl_tf.data.decoding import decode
from imcl_tf.data.pixels import resized
from imcl_tf.files import replacing
from imcl_tf.methods.base import MultiLabelModel

# The signatures of an exported model.
SERVING, FEATURES = "serving_default", "features"


def export(
    model: MultiLabelModel, path: str | Path, label_names: Sequence[str]
):
    """Writes a SavedModel that opens with TensorFlow alone.

    Its signature `serving_default` takes `images` [B] string (the bytes of
    JPEG, PNG, WebP, BMP or GIF files, which it decodes as training did: turned
    by their EXIF orientation, alpha over white) and returns `probabilities`
    [B, C] float32 and `labels` [C] string. Its signature `features` returns the
    same for `features` [B, d] float32 of the backbone; of a model without
    backbone, `serving_default` is that one.

    Args:
      model: with a backbone on pictures [B, S, S, 3] or none, built.
      path: directory to write; its parent is made. An earlier export there,
        or an empty directory, is replaced.
      label_names: C names.

    Raises:
      ValueError: if the names are not C distinct ones, or the model takes
        neither pictures nor features, or is not built.
      OSError: if the directory cannot be written, or something else is there.

    Example:
      >>> import imcl_tf, os, tempfile
      >>> model = imcl_tf.MultiLabelModel(
      ...     imcl_tf.backbone("small_cnn", image_size=32), 2)
      >>> model.build((None, 32, 32, 3))
      >>> place = os.path.join(tempfile.mkdtemp(), "saved_model")
      >>> imcl_tf.export(model, place, ["cat", "dog"])
      >>> os.path.isfile(os.path.join(place, "saved_model.pb"))
      True
    """
    path = Path(path)
    _check_names(model, label_names)
    check_place(path)
    functions = {
        name: serve.get_concrete_function()
        for name, serve in _signatures(model, [*label_names]).items()
    }
    save_functions(path, functions)


def check_place(path: Path):
    """Checks that an exported model may be written to `path`.

    Raises:
      FileExistsError: if something else is there.
    """
    if path.is_file() or (
        path.is_dir()
        and any(path.iterdir())
        and not (path / "saved_model.pb").is_file()
    ):
        raise FileExistsError(
            f"{path}: exists and is no exported model; a new directory expected"
        )


def save_functions(path: Path, functions: dict[str, Any]):
    """Writes a SavedModel of functions alone; its parent is made.

    Not of a model itself, with its optimizers and what training remembers.

    Args:
      path: directory.
      functions: signature -> concrete function.
    """
    module = tf.Module()
    module.functions = functions
    module.weights = [
        function.graph.variables for function in module.functions.values()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        tf.saved_model.save(
            module, str(unfinished), signatures=module.functions
        )


def _check_names(model, label_names):
    if len(label_names) != model.num_labels:
        raise ValueError(
            f"label_names must be {model.num_labels} names, got "
            f"{len(label_names)}"
        )
    if not all(isinstance(name, str) for name in label_names):
        raise ValueError(f"label_names must be strings, got {label_names!r}")
    if isinstance(label_names, str) or len({*label_names}) < len(label_names):
        raise ValueError(
            f"label_names must be distinct names, got {label_names!r}"
        )


def _signatures(model, label_names) -> dict[str, Any]:
    """Name -> tf.function of one tensor."""

    def of_features(features):
        scores = model.predictions(model.represent(features))
        return _outputs(scores, label_names)

    served = {}
    if len(model.feature_shape) == 1:
        spec = tf.TensorSpec(
            [None, *model.feature_shape], tf.float32, name="features"
        )
        served[FEATURES] = function_of(of_features, spec)
    if isinstance(model.backbone, keras.layers.Identity) and served:
        return {SERVING: served[FEATURES], **served}
    image_size, resizing = picture_format(model.backbone)

    def of_images(images):
        pixels = tf.map_fn(
            lambda encoded: resized(decode(encoded), image_size, resizing),
            images,
            fn_output_signature=tf.TensorSpec(
                [image_size, image_size, 3], tf.uint8
            ),
        )
        return _outputs(model(pixels, training=False), label_names)

    spec = tf.TensorSpec([None], tf.string, name="images")
    return {SERVING: function_of(of_images, spec), **served}


def function_of(
    serve: Callable[[tf.Tensor], dict[str, tf.Tensor]], spec: tf.TensorSpec
) -> Any:
    """A tf.function of one input, which refuses another shape.

    Args:
      serve: input -> name -> output.
      spec: of the input.
    """

    def checked(inputs):
        # A signature itself takes any: pictures of another size, say.
        return serve(tf.ensure_shape(inputs, spec.shape))

    return tf.function(checked, input_signature=[spec], autograph=False)


def _outputs(scores: tf.Tensor, label_names: list[str]) -> dict:
    return {
        "probabilities": tf.sigmoid(scores),
        "labels": tf.constant(label_names),
    }
