"""A trial of `train_rnn` as one plain Keras file: the same network, trained in the same way, without sweeper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeper.core.errors import InputError
from sweeper.datasets.base import Dataset
from sweeper.datasets.catalog import Digits, FashionMnist, Mnist, TimeSeries
from sweeper.training.engine.optimizers import OPTIMIZERS
from sweeper.training.engine.recurrence import CELLS
from sweeper.training.hparams import RNNParams

_OPTIMIZERS = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW", "nadam": "Nadam", "lion": "Lion"}

_DIGITS = """\
from sklearn.datasets import load_digits

data = load_digits()
order = np.random.RandomState(0).permutation(len(data.target))
images, labels = np.round(data.images[order] * (255 / 16)), data.target[order]
x_val, y_val, x, y = images[:297], labels[:297], images[297:1497], labels[297:1497]
x_test, y_test = images[1497:], labels[1497:]"""

_SERIES = """\
count, steps = {count}, {steps}
starts = np.random.RandomState(0).uniform(0, 30 - 0.1 * steps, (count, 1))
t = starts + 0.1 * np.arange(steps + 1)
values = (t * np.sin(t) / 3 + 2 * np.sin(5 * t)).astype("float32")[:, :, None]
x, y = values[:{train}, :-1], values[:{train}, 1:]
x_val, y_val = values[{train}:{validated}, :-1], values[{train}:{validated}, 1:]
x_test, y_test = values[{validated}:, :-1], values[{validated}:, 1:]"""

_BATCHES = """\
def batches():
    \"\"\"Yield batches of one size; a batch may hold the end of an epoch and the start of the next.\"\"\"
    shuffle, order = np.random.default_rng(SEED), np.empty(0, int)
    while True:
        if len(order) < BATCH_SIZE:
            order = np.concatenate([order, shuffle.permutation(len(x))])
        picked, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        yield x[picked], y[picked]"""

_WARM_UP = """

class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        progress = (step - {warm}) / {rest}
        return {rate} * keras.ops.where(step < {warm}, (step + 1) / {above}, {factor})

    def get_config(self):
        return {{}}  # to be saved with the model"""

_FACTORS = {
    "constant": "1.0",
    "linear": "1.0 - progress",
    "cosine": "0.5 * (1.0 + keras.ops.cos(np.pi * progress))",
    "step": "{decay} ** keras.ops.floor(progress * {pieces})",
}


def as_script(params: RNNParams, dataset: Dataset, *, steps: int, epochs: float, seed: int, title: str) -> str:
    """Return a Keras program of at most 80 lines that trains the network of a trial, tests it and saves it.

    Its random numbers are other ones, so that its accuracy is that of the trial to within noise.

    Args:
        steps: gradient steps of the whole trial, in `epochs` passes.

    Raises:
        InputError: the trial has a hyperparameter that plain Keras layers lack.
    """
    if params.joint_fans:
        raise InputError("joint_fans scales two kernels as one, which no layer of Keras does; use --to keras or onnx")
    rounds = max(1, round(epochs))
    parts = [
        f'"""{title}\n\nPlain Keras: the same network, trained in the same way. Run it with: python FILE\n"""',
        "import keras\nimport numpy as np",
        f"SEED, BATCH_SIZE = {seed}, {params.batch_size}\nSTEPS = {steps}  # gradient steps, in {rounds} rounds\n"
        "keras.utils.set_random_seed(SEED)",
        "\n".join([_data(dataset), *_layout(dataset)]),
        *([_bias(params)] if _has_own_bias(params) else []),
        "\n".join(_network(params, dataset)),
        *_schedule(params, steps),
        "\n".join(_training(params, dataset, rounds)),
    ]
    return "\n\n".join(parts) + "\n"


def _data(dataset: Dataset) -> str:
    if isinstance(dataset, TimeSeries):
        validated = dataset.train + dataset.validation
        count = validated + dataset.test
        return _SERIES.format(count=count, steps=dataset.steps, train=dataset.train, validated=validated)
    if isinstance(dataset, Digits):
        loading = _DIGITS
    else:
        assert isinstance(dataset, Mnist | FashionMnist)
        loading = (
            f"(x, y), (x_test, y_test) = keras.datasets.{dataset.type}.load_data()\n"
            "x_val, y_val, x, y = x[:5000], y[:5000], x[5000:], y[5000:]"
        )
    sizes = {"": dataset.train, "_val": dataset.validation, "_test": dataset.test}
    cuts = [
        f"x{part}, y{part} = x{part}[:{size}], y{part}[:{size}]" for part, size in sizes.items() if size is not None
    ]
    return "\n".join([loading, *cuts])


def _layout(dataset: Dataset) -> Iterator[str]:
    """Yield the lines that arrange images as the sweep does, one time step in a row or pixel."""
    layout = getattr(dataset, "layout", "rows")
    if layout == "rows":
        return
    arranged = "a.transpose(0, 2, 1)" if layout == "columns" else "a.reshape(len(a), -1, 1)"
    if layout == "permuted":
        yield f"pixels = np.random.RandomState(0).permutation({dataset.task.steps})"
        arranged += "[:, pixels]"
    yield f"x, x_val, x_test = ({arranged} for a in (x, x_val, x_test))"


def _has_own_bias(params: RNNParams) -> bool:
    return params.cell == "lstm" and params.forget_bias != 1.0


def _bias(params: RNNParams) -> str:
    return (
        "\ndef forget_bias(shape, dtype=None):\n"
        f"    return np.repeat([0.0, {params.forget_bias!r}, 0.0, 0.0], {params.units}).astype(dtype)\n"
    )


def _network(params: RNNParams, dataset: Dataset) -> Iterator[str]:
    task = dataset.task
    yield f"inputs = keras.Input(({task.steps}, {task.features}))"
    yield "h = keras.layers.Rescaling(1 / 255)(inputs)" if task.scale != 1 else "h = inputs"
    if params.masking:
        yield "h = keras.layers.Masking(0.0)(h)"
    for number in range(params.layers):
        gives_all = number < params.layers - 1 or task.forecasts
        layer = f"keras.layers.{CELLS[params.cell].keras_class}({_call(params.units, **_options(params, gives_all))})"
        yield f"h = {f'keras.layers.Bidirectional({layer})' if params.bidirectional else layer}(h)"
        if params.layer_norm:
            yield "h = keras.layers.LayerNormalization()(h)"
        if params.output_dropout:
            yield f"h = keras.layers.Dropout({params.output_dropout!r})(h)"
    if params.dense:
        yield f"h = keras.layers.Dense({params.dense}, activation={params.dense_activation!r})(h)"
        if params.output_dropout:
            yield f"h = keras.layers.Dropout({params.output_dropout!r})(h)"
    normal = _Code("keras.initializers.RandomNormal(stddev=1.0)")
    is_own = params.head_initializer != "keras"
    head = dict.fromkeys(("kernel_initializer", "bias_initializer"), normal) if is_own else {}
    yield f"model = keras.Model(inputs, keras.layers.Dense({_call(task.outputs, **head)})(h))"


class _Code(str):
    """An expression that stands in the script as it is."""

    def __repr__(self) -> str:
        return str(self)


def _options(params: RNNParams, gives_all: bool) -> dict[str, Any]:
    """Return the arguments of a recurrent layer that are not Keras's defaults."""
    defaults = RNNParams()
    names = ("activation", "dropout", "recurrent_dropout", "kernel_initializer", "recurrent_initializer")
    found = {name: getattr(params, name) for name in names if getattr(params, name) != getattr(defaults, name)}
    if _has_own_bias(params):
        found |= {"unit_forget_bias": False, "bias_initializer": _Code("forget_bias")}
    if gives_all:
        found["return_sequences"] = True
        if params.masking:
            found["zero_output_for_mask"] = True
    if params.precision != "float32":
        found["dtype"] = params.precision
    return found


def _call(*positional: Any, **named: Any) -> str:
    return ", ".join([*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())])


def _schedule(params: RNNParams, steps: int) -> list[str]:
    """Return the definition of the learning rate, if it changes."""
    rate, warm = params.learning_rate, round(params.warmup * steps)
    schedules, pieces = "keras.optimizers.schedules", params.drops + 1
    if warm:
        factor = _FACTORS[params.schedule].format(decay=params.decay, pieces=pieces)
        rest = max(steps - warm, 1)
        text = _WARM_UP.format(warm=warm, rest=rest, rate=rate, above=warm + 1, factor=factor)
        return [f"{text}\n\n\nrate = Schedule()"]
    if params.schedule == "cosine":
        return [f"rate = {schedules}.CosineDecay({rate!r}, STEPS)"]
    if params.schedule == "linear":
        return [f"rate = {schedules}.PolynomialDecay({rate!r}, STEPS, end_learning_rate=0.0)"]
    if params.schedule == "step":
        values = f"[{rate!r} * {params.decay!r}**drop for drop in range({pieces})]"
        bounds = f"[-(-STEPS * drop // {pieces}) - 1 for drop in range(1, {pieces})]"
        return [f"rate = {schedules}.PiecewiseConstantDecay({bounds}, {values})"]
    return [f"rate = {rate!r}"]


def _training(params: RNNParams, dataset: Dataset, rounds: int) -> Iterator[str]:
    options: dict[str, Any] = {}
    if params.optimizer in ("sgd", "rmsprop") and params.momentum:
        options["momentum"] = params.momentum
    if params.optimizer == "sgd" and params.nesterov:
        options["nesterov"] = True
    if params.epsilon is not None and params.optimizer not in ("sgd", "lion"):
        options["epsilon"] = params.epsilon
    decay = OPTIMIZERS[params.optimizer].weight_decay if params.weight_decay is None else params.weight_decay
    if decay:
        options["weight_decay"] = decay
    if params.clip_norm:
        options["global_clipnorm"] = params.clip_norm
    yield f"optimizer = keras.optimizers.{_OPTIMIZERS[params.optimizer]}({_call(_Code('rate'), **options)})"
    if decay:
        yield 'optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])'
    loss, metrics = "keras.losses.SparseCategoricalCrossentropy(from_logits=True)", ', metrics=["accuracy"]'
    if dataset.task.forecasts:
        loss, metrics = '"mean_squared_error"', ""
    yield f"model.compile(optimizer, {loss}{metrics})"
    yield ""
    yield ""
    yield _BATCHES
    yield ""
    yield ""
    yield f'rounds = {{"epochs": {rounds}, "steps_per_epoch": round(STEPS / {rounds})}}'
    yield "model.fit(batches(), **rounds, shuffle=False, validation_data=(x_val, y_val), verbose=2)"
    yield 'print("test", model.evaluate(x_test, y_test, verbose=0, return_dict=True))'
    yield 'model.save("model.keras")'
