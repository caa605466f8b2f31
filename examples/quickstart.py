"""From a folder of pictures to labels: python examples/quickstart.py."""
# ruff: noqa: E501
# fmt: off

import imcl_tf

data = imcl_tf.load_dataset("folder", "pictures")            # .train, .validation, .test, .label_names
backbone = imcl_tf.backbone("resnet101", weights="imagenet")
model = imcl_tf.IMCL(backbone, data.num_labels)
model.compile("rmsprop")
model.fit(data.train.batches(32), validation_data=data.validation, epochs=3)
print(imcl_tf.evaluate(model, data.test).mean())
imcl_tf.export(model, "saved_model", data.label_names)
imcl_tf.predict_images("saved_model", ["new.jpg"])
