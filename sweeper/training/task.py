"""What a network has to do: the shapes of what it reads and of what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Sequences `[steps, features]` go in; out come the logits of `outputs` classes, or `outputs` numbers per step.

    What is classified are images: their pixels are bytes. What is forecast are floats, and so are the targets.
    """

    steps: int
    features: int
    outputs: int
    forecasts: bool = False

    @property
    def input_type(self) -> str:
        return "float32" if self.forecasts else "uint8"

    @property
    def target_type(self) -> str:
        return "float32" if self.forecasts else "int32"

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (self.steps, self.outputs) if self.forecasts else ()

    @property
    def scale(self) -> float:
        """What inputs are multiplied with."""
        return 1.0 if self.forecasts else 1 / 255
