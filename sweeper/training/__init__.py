"""The built-in trainable: recurrent networks in Keras. Knows no Ray, no MLflow and no Optuna; imports nothing heavy."""

from sweeper.training.hparams import RNNParams
from sweeper.training.trainable import train_rnn

__all__ = ["RNNParams", "train_rnn"]
