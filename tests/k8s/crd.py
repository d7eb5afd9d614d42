"""A check of documents against a CustomResourceDefinition, as strict as `kubectl --validate=strict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


class Crd:
    """Schema of one kind, in the version that is stored."""

    def __init__(self, path: Path) -> None:
        import yaml
        from jsonschema import Draft202012Validator

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # much faster for a megabyte
        spec = yaml.load(path.read_text(), loader)["spec"]
        version = next(version for version in spec["versions"] if version["storage"])
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        self.kind = str(spec["names"]["kind"])
        self._validator = Draft202012Validator(schema)

    def faults(self, document: Any) -> list[str]:
        """Return the faults of a document, each with its place."""
        found = sorted(self._validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema as JSON Schema in which undeclared keys are faults."""
    strict = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    if "properties" in schema:
        strict["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        # The server fills in defaults before it checks what is required.
        defaulted = {key for key, value in schema["properties"].items() if "default" in value}
        strict["required"] = [key for key in schema.get("required", []) if key not in defaulted]
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        strict["additionalProperties"] = _strict(others)
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    return strict
