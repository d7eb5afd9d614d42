"""Write docs/yaml.md from the models: `python docs/generate_yaml.py > docs/yaml.md`; `--check` compares instead."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sweeper.spec import Sweep
from sweeper.training import RNNParams

PAGE = Path(__file__).with_name("yaml.md")
COMMAND = "python docs/generate_yaml.py > docs/yaml.md"

Schema = Mapping[str, Any]

MAX_SHOWN_BOUND = 2**53
"""Larger bounds only guard JSON and databases against overflow; no reader needs them."""

SCALAR_TYPES = {"string", "boolean", "integer", "number"}
TYPE_NAMES = {"string": "text", "boolean": "true or false", "integer": "integer", "number": "number", "null": "null"}

INTRODUCTION = f"""\
# The sweep file

Every key of a sweep file, generated from the models that check it: `{COMMAND}`.
`sweeper validate FILE` checks a file; `sweeper schema` prints the same rules as a JSON Schema for editors.

A *duration* is text such as `90s`, `30m` or `1h30m` (units `d`, `h`, `m`, `s`), or a number of seconds. A *scalar* is
text, a number, `true`, `false` or `null`. An *expression* computes a number from a trial's parameters; see
[resources.md](resources.md). A dash in the column *default* means that the key has no value unless you give one.
`storage` and `tracking.uri` may hold `${{env:NAME}}`, which stands for that environment variable; a password in clear
is refused. Unknown keys are errors.

A file needs `name`, `budget` and `space`:

```yaml
name: shortest
dataset: {{type: digits}}
budget: {{trials: 10, epochs: 3}}
space:
  units: {{type: int, low: 16, high: 64}}
```
"""

SPACE = """\
Each key of `space` is the name of a parameter: letters, digits and `_`, up to 64. A plain value (`cell: lstm`) is a
constant. Anything else is a mapping with a `type`."""

HYPERPARAMETERS = """\
The parameters of the built-in trainable, `sweeper.training:train_rnn`. Each may stand in `space`, as a constant or as
something to search. Those that are left out keep their defaults. `backend: jax` needs `pip install 'sweeper[jax]'`;
checkpoints and models are the same on both backends."""


def render() -> str:
    """Return the whole page."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    schema = Sweep.model_json_schema()
    definitions: Schema = schema["$defs"]
    yield INTRODUCTION
    yield "## Top level\n"
    yield from _table(schema, definitions, Sweep)
    for key, field in schema["properties"].items():
        kinds = _kinds(field, definitions)
        if not kinds:
            continue
        yield f"\n## {key}\n"
        if len(kinds) == 1:
            (model,) = kinds.values()
            yield from [_summary(model), ""]
            yield from _table(model, definitions)
            for inner, part in model["properties"].items():
                for nested in [kinds[""]] if "" in (kinds := _kinds(part, definitions)) else []:
                    yield f"\n### {key}.{inner}\n"
                    yield from [_summary(nested), ""]
                    yield from _table(nested, definitions)
            continue
        yield SPACE if key == "space" else _cell(field.get("description", ""))
        for name, model in kinds.items():
            yield f"\n### type: {name}\n"
            yield from [_summary(model), ""]
            yield from _table(model, definitions)
    yield f"\n## Hyperparameters of train_rnn\n\n{HYPERPARAMETERS}\n"
    parameters = RNNParams.model_json_schema()
    yield from _table(parameters, parameters.get("$defs", {}))


def _kinds(field: Schema, definitions: Schema) -> dict[str, Schema]:
    """Return the models a field may hold, by their `type`; one without a `type` stands under an empty name."""
    if "discriminator" in field:
        models = [_resolve(part["$ref"], definitions) for part in field["oneOf"]]
        return {str(model["properties"]["type"]["const"]): model for model in models}
    if "$ref" in field:
        return {"": _resolve(field["$ref"], definitions)}
    inner = [*field.get("anyOf", []), *field.get("oneOf", [])]
    if isinstance(field.get("additionalProperties"), dict):
        inner.append(field["additionalProperties"])
    return next((kinds for part in inner if (kinds := _kinds(part, definitions))), {})


def _resolve(ref: str, definitions: Schema) -> Schema:
    model: Schema = definitions[ref.rpartition("/")[2]]
    return model


def _summary(model: Schema) -> str:
    return _cell(str(model.get("description", "")).split("\n\n")[0])


def _table(schema: Schema, definitions: Schema, model: type[BaseModel] | None = None) -> Iterator[str]:
    properties = {key: field for key, field in schema["properties"].items() if "const" not in field or key != "type"}
    if not properties:
        yield "It has no options."
        return
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in properties.items():
        description = field.get("description") or next(iter(_kinds(field, definitions).values()), {}).get("description")
        default = "required" if key in schema.get("required", ()) else _default(key, field, model)
        cells = (f"`{key}`", _type_of(key, field, definitions), default, str(description or "").split("\n\n")[0])
        yield f"| {' | '.join(map(_cell, cells))} |"


def _default(key: str, field: Schema, model: type[BaseModel] | None) -> str:
    value = field.get("default")
    if value is None and "default" not in field and model is not None:
        declared = {field.alias or name: field for name, field in model.model_fields.items()}
        value = declared[key].get_default(call_default_factory=True)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, BaseModel):
            kind = getattr(value, "type", None)
            return f"`{{type: {kind}}}`" if kind else "its defaults"
    if value is None:
        return "`{}`" if field.get("type") == "object" else "-"
    if _is_duration(field):
        return f"`{_duration(float(value))}`"
    return f"`{_yaml(value)}`" if value != "" else "-"


def _yaml(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _duration(seconds: float) -> str:
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("m", 60), ("s", 1)) if seconds % size == 0)
    return f"{seconds / size:g}{unit}"


def _is_duration(field: Schema) -> bool:
    parts = field.get("anyOf", [])
    return any("pattern" in part for part in parts) and any(part.get("type") == "number" for part in parts)


def _type_of(key: str, field: Schema, definitions: Schema) -> str:
    kinds = _kinds(field, definitions)
    if "additionalProperties" in field and kinds:
        return f"mapping, see [{key}](#{key})"
    if kinds and (key in Sweep.model_fields or key == "objective"):
        text = "text, or " if any(part.get("type") == "string" for part in _parts(field)) else ""
        text = "mapping or list of mappings, " if any(part.get("type") == "array" for part in _parts(field)) else text
        return (
            f"{text}one of {len(kinds)} types, see [{key}](#{key})" if len(kinds) > 1 else f"{text}see [{key}](#{key})"
        )
    if "" in kinds:
        return "mapping, see below"
    if kinds:
        return f"mapping of type {', '.join(f'`{name}`' for name in kinds)}"
    parts = [part for part in _parts(field) if part.get("type") != "null" or field.get("default", "") is not None]
    if _is_duration(field):
        return "duration or null" if any(part.get("type") == "null" for part in parts) else "duration"
    if {part.get("type") for part in parts} >= SCALAR_TYPES:
        return "scalar"
    return " or ".join(dict.fromkeys(map(_part, parts)))


def _parts(field: Schema) -> list[Schema]:
    inner = [*field.get("anyOf", []), *field.get("oneOf", [])]
    return [leaf for part in inner for leaf in _parts(part)] if inner else [field]


def _part(part: Schema) -> str:
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{name}`" for name in part["enum"])
    if part["type"] == "array":
        items = _parts(part["items"])
        inner = "mapping" if any(item.get("type") == "object" for item in items) else "scalar"
        return f"list of {inner}s"
    if part["type"] == "object":
        return "mapping"
    if part["type"] == "string" and part.get("maxLength") == 200:
        return "expression"
    name = TYPE_NAMES[part["type"]]
    return f"{name} ({bounds})" if (bounds := _bounds(part)) else name


def _bounds(part: Schema) -> str:
    """Return the allowed range in words, such as "1 to 8" or "above 0, at most 1"."""
    low, high = (_bound(part, *keys) for keys in (("minimum", "ge"), ("maximum", "le")))
    above, below = (_bound(part, *keys) for keys in (("exclusiveMinimum", "gt"), ("exclusiveMaximum", "lt")))
    if below is not None:
        high = None
    if low is not None and high is not None:
        return f"{low} to {high}"
    words = {"at least": low, "above": above, "at most": high, "below": below}
    if (longest := part.get("maxLength")) is not None:
        return f"at most {longest:,} characters"
    return ", ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)


def _bound(part: Schema, *keys: str) -> str | None:
    value = next((part[key] for key in keys if key in part), None)
    if value is None or abs(value) >= MAX_SHOWN_BOUND:
        return None
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        sys.stdout.write(render())
    elif PAGE.read_text() != render():
        sys.exit(f"docs/yaml.md does not match the models. Write it again: {COMMAND}")
