"""Training of recurrent networks with plain Keras: knows no Ray, no MLflow and no Optuna, and imports nothing heavy."""

from sweeper.datasets.base import Arrays
from sweeper.datasets.catalog import Dataset, Digits, FashionMnist, Mnist, TimeSeries
from sweeper.training.hparams import RNNParams
from sweeper.training.trainable import Evaluation, train_rnn

__all__ = ["Arrays", "Dataset", "Digits", "Evaluation", "FashionMnist", "Mnist", "RNNParams", "TimeSeries", "train_rnn"]
