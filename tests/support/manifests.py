"""Files of infra/ and the schemas that they are checked against."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.support.cli import ROOT

INFRA = ROOT / "infra"
SCHEMAS = Path(__file__).with_name("schemas")


def documents(name: str) -> list[dict[str, Any]]:
    """The documents of a YAML file below infra/."""
    return [document for document in yaml.safe_load_all((INFRA / name).read_text()) if document is not None]


def document(name: str) -> dict[str, Any]:
    """The only one of a file. A copy: what YAML names once and uses often is there often, each by itself."""
    (only,) = documents(name)
    return json.loads(json.dumps(only))


def custom_resource(plural: str) -> dict[str, Any]:
    """KubeRay's schema, as strict as `kubectl apply --validate=strict`: unknown fields are errors."""
    schema = json.loads(gzip.decompress((SCHEMAS / f"{plural}.json.gz").read_bytes()))
    return _strict(schema)


def compose_spec() -> dict[str, Any]:
    return json.loads((SCHEMAS / "compose-spec.json").read_text())


def complaints(schema: Mapping[str, Any], value: Any) -> list[str]:
    """Where and why a value does not fit its schema; empty where it does."""
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema)
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


def changed(value: Mapping[str, Any], path: str, new: Any) -> dict[str, Any]:
    """A copy with another value at a path such as `spec.workerGroupSpecs.0.replicas`; None takes the key away."""
    result = copy.deepcopy(dict(value))
    *folders, last = path.split(".")
    at: Any = result
    for key in folders:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if isinstance(at, list):
        at[int(last)] = new
    elif new is None:
        del at[last]
    else:
        at[last] = new
    return result


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(part) for key, part in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return strict
