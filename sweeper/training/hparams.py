"""Hyperparameters of `train_rnn`: names, types, bounds and defaults. A search space may contain each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import CoreSchema, core_schema

from sweeper.training.engine.initializers import INITIALIZERS
from sweeper.training.engine.ops import ACTIVATIONS
from sweeper.training.engine.optimizers import OPTIMIZERS, SCHEDULES
from sweeper.training.engine.recurrence import CELLS

BACKENDS = ("tensorflow", "jax")
HEADS = ("keras", "normal")
PRECISIONS = ("float32", "mixed_bfloat16")


@dataclass(frozen=True)
class OneOf:
    """Annotation of a string that must be one of `names`; pydantic treats it as a `Literal` of a table's keys."""

    names: Iterable[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(list(self.names))


class RNNParams(BaseModel):
    """A recurrent network and its training. Every field has a default, so a space names only what it varies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cell: Annotated[str, OneOf(CELLS)] = Field("lstm", description="Kind of recurrent layer.")
    bidirectional: bool = Field(False, description="Read the sequence in both directions and join the two outputs.")
    layers: int = Field(1, ge=1, le=8, description="Recurrent layers, one on top of the other.")
    units: int = Field(128, ge=1, le=4096, description="Hidden units of each layer (of each direction).")
    activation: Annotated[str, OneOf(ACTIVATIONS)] = Field("tanh", description="Activation of the recurrent layers.")
    layer_norm: bool = Field(False, description="Normalise the output of each recurrent layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of each recurrent layer's inputs that is dropped.")
    recurrent_dropout: float = Field(0.0, ge=0, lt=1, description="Share of the recurrent state that is dropped.")
    output_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of each layer's outputs that is dropped, with a new mask at each time step."
    )
    masking: bool = Field(False, description="Skip the time steps that are all zero, such as padding.")
    dense: int = Field(0, ge=0, le=4096, description="Units of a dense layer before the head (0: none).")
    dense_activation: Annotated[str, OneOf(ACTIVATIONS)] = Field("relu", description="Activation of the dense layer.")
    kernel_initializer: Annotated[str, OneOf(INITIALIZERS)] = Field(
        "glorot_uniform", description="Initial weights from the inputs."
    )
    recurrent_initializer: Annotated[str, OneOf(INITIALIZERS)] = Field(
        "orthogonal", description="Initial weights from the recurrent state."
    )
    joint_fans: bool = Field(
        False, description="Scale both kernels as one kernel of inputs and state, as TensorFlow 1 did."
    )
    forget_bias: float = Field(1.0, ge=-10, le=10, description="Initial bias of an LSTM's forget gate.")
    head_initializer: Annotated[str, OneOf(HEADS)] = Field(
        "keras", description="Initial head: Keras's, or weights and biases from N(0, 1) as in TensorFlow 1's tutorials."
    )

    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = Field("adam", description="Optimizer.")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="Learning rate after the warm-up.")
    batch_size: int = Field(128, ge=1, le=65536, description="Samples per gradient step.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of sgd and rmsprop.")
    nesterov: bool = Field(False, description="Nesterov's momentum, with sgd.")
    epsilon: float | None = Field(None, gt=0, le=1, description="Guard against division by zero (default 1e-7).")
    weight_decay: float | None = Field(
        None, ge=0, le=1, description="Decoupled decay of weights, not of biases (default: 0.004 with adamw, else 0)."
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of the whole gradient.")
    schedule: Annotated[str, OneOf(SCHEDULES)] = Field("constant", description="Learning-rate schedule.")
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of the trial in which the learning rate rises.")
    decay: float = Field(0.1, gt=0, le=1, description="Factor of each drop of the `step` schedule.")
    drops: int = Field(2, ge=1, le=100, description="Drops of the `step` schedule, evenly spaced.")
    backend: Annotated[str, OneOf(BACKENDS)] = Field(
        "tensorflow",
        description="Backend, one for all trials of a sweep; jax needs `pip install 'sweeper[jax]'`.",
        json_schema_extra={"constant": True},
    )
    precision: Annotated[str, OneOf(PRECISIONS)] = Field(
        "float32", description="Precision of the recurrent layers; mixed_bfloat16 is for GPUs."
    )
    watch_test: bool = Field(False, description="Also report metrics on the test set; do not choose by them.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Seed of weights, dropout and data order.")

    @field_validator("backend")
    @classmethod
    def _is_installed(cls, backend: str) -> str:
        if find_spec(backend) is None:
            raise ValueError(f"{backend} is not installed here; try: pip install 'sweeper[{backend}]'")
        return backend
