"""A callback that notes the learning rates while validation degrades."""

import keras


class Watch(keras.callbacks.Callback):
    """Attribute `rates`: of each step, those of all optimizers."""

    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_begin(self, logs=None):
        logs["val_mAP"] = 50.0

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(
            [float(o.learning_rate) for o in self.model.optimizers]
        )

    def on_epoch_end(self, epoch, logs=None):
        logs["val_mAP"] = 49.0 - epoch
