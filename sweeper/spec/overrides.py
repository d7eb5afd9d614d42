"""Values given beside the file: `--set budget.trials=5` over what the file says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sweeper.core.schema import Fault, Key
from sweeper.core.text import shown
from sweeper.spec.yaml_file import parse_value


def override(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """The data with dotted keys set; text is read as YAML, and null removes a key."""
    changed = copy.deepcopy(dict(data))
    faults = []
    for path, value in overrides.items():
        key: Key = tuple(path.split("."))
        try:
            _set(changed, key, parse_value(value) if isinstance(value, str) else value)
        except ValueError as error:
            faults.append(Fault(key, str(error)))
    return changed, faults


def _set(data: dict[str, Any], key: Key, value: Any) -> None:
    if not all(key):
        raise ValueError("is no key; write it like budget.trials")
    inner: Any = data
    for i, part in enumerate(key[:-1]):
        if inner.get(part) is None:
            if value is None:
                return
            inner[part] = {}
        inner = inner[part]
        if not isinstance(inner, dict):
            above = ".".join(str(part) for part in key[: i + 1])
            raise ValueError(f"{above} is {shown(inner)}, which has no keys; set {above} as a whole")
    if value is None:
        inner.pop(key[-1], None)
    else:
        inner[key[-1]] = value
