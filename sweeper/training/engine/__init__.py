"""Training engine: recurrent networks, their gradients and their optimizers, written out for speed.

This is the one place of sweeper where we write what a library has: Keras has these layers, initializers and optimizers.
Written for a sweep, in which one process trains many networks of different sizes, they are faster; docs/performance.md
has the measurements. The reasons:

- **One graph for all sizes.** Keras fixes every size, and every number of an optimizer, in its graph, so each new width
  is traced again. Here TensorFlow's graph fixes only the number of time steps and the structure; widths, batch sizes,
  dropout rates and the optimizer's numbers are tensors (`graph.py`). JAX needs all sizes, and compiles for each width.
- **Written-out gradients.** Keras projects the inputs anew at each time step, and the backend adds up one weight
  gradient per step. Here all inputs are projected before the first step, and the weights get their gradient from one
  product after the last (`recurrence.py`).
- **One flat vector of weights.** An optimizer updates one vector, not ten variables (`optimizers.py`).
- **Many gradient steps in one call**, in a loop within the graph (`graph.py`).
- **Unrolled time steps** in TensorFlow, up to 64 (`recurrence.py`).

On a GPU with TensorFlow, and with `precision: mixed_bfloat16`, Keras's own layers train (`keras_model.KerasNetwork`):
cuDNN has kernels for them there. Models are always saved as Keras models of built-in layers.

Keras is what the engine is tested against, in tests/training/engine/:

- test_network.py: weights, losses, gradients and dropout masks of each cell and each option equal those of Keras's
  layers; steps in TensorFlow's loop and unrolled steps give the same.
- test_program.py: whole gradient steps equal those of a Keras model under a GradientTape, and those of `KerasNetwork`.
- test_optimizers.py: each optimizer takes the steps of the Keras optimizer of its name.
- test_initializers.py: each initializer has the spread of Keras's.
- test_backends.py: JAX and TensorFlow train the same network.
- test_golden.py: two time steps give the numbers that a book prints.

The engine is closed behind `program.Program`, which takes hyperparameters and a task, trains and evaluates. `loop.Loop`
drives it: the order of the samples, the learning rate, the metrics and the checkpoints.

To add

- a cell: write its forward and its backward step, and add them to `CELLS` in recurrence.py, with the name of the class
  in keras.layers, the number of gates and of states;
- an optimizer: write its update rule, and add it to `OPTIMIZERS` in optimizers.py, with its number of slots and Keras's
  defaults, and to the table of test_optimizers.py;
- an activation, an initializer or a schedule: add it to `_GRADIENTS` in ops.py, `_SCALINGS` in initializers.py or
  `SCHEDULES` in optimizers.py.

A sweep may name it then, the documentation lists it, and the tests run over it: they read the same tables.
"""
