"""Turns what pydantic says about a job into problems: expected what, found what, write what."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gen_dist.job.problem import Problem, choose, guess, shown
from gen_dist.job.spec import Spec

NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words, with its bounds: "a whole number from 0 to 3"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(arguments[0], arguments[1:])
    if origin is Literal:
        return " or ".join(map(shown, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(kind(argument) for argument in arguments)
    if origin in (list, tuple, Sequence) and arguments:
        return f"a list, each item {kind(arguments[0])}"
    if origin in (dict, Mapping) and len(arguments) == 2 and arguments[1] is not Any:
        return f"a table, each value {kind(arguments[1])}"
    if annotation is dict or origin in (dict, Mapping) or is_spec(annotation):
        return "a table"
    return NOUNS.get(annotation, "a value") + _bounds(metadata)


def _limits(metadata: Iterable[Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for entry in metadata:
        for part in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
            limits |= {name: getattr(part, name) for name in ("gt", "ge", "lt", "le") if hasattr(part, name)}
    return limits


def _bounds(metadata: Iterable[Any]) -> str:
    limits = _limits(metadata)
    if limits == {"gt": 0}:
        return " above 0"
    if limits.keys() == {"ge", "le"}:
        return f" from {limits['ge']} to {limits['le']}"
    words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    return "".join(f" {words[name]} {limit}" for name, limit in limits.items())


def is_spec(annotation: Any) -> TypeGuard[type[Spec]]:
    """Whether a key of this type is a table of the job."""
    return isinstance(annotation, type) and issubclass(annotation, Spec)


def keys(spec: type[Spec], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a spec."""
    for name, field in spec.model_fields.items():
        yield f"{prefix}{name}"
        if is_spec(field.annotation):
            yield from keys(field.annotation, f"{prefix}{name}.")


def problems(error: ValidationError, spec: type[Spec], prefix: str = "") -> list[Problem]:
    """One problem for each key that pydantic refused; `prefix` ("model.") stands before the keys."""
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        place = _place(detail["loc"], spec)
        key = (prefix + place.key).rstrip(".")
        if detail["type"] == "extra_forbidden":
            found[key] = _unknown_key(key, place, detail["input"], spec, prefix)
        elif detail["type"] == "missing":
            found |= {gap.key: gap for gap in _missing(key, place)}
        elif key not in found:
            found[key] = _wrong_value(key, place, detail)
    return list(found.values())


class _Place:
    """Where an error is: its dotted key, the spec that holds the key, and the key's field if it has one."""

    def __init__(self, owner: type[Spec]) -> None:
        self.key, self.owner, self.name = "", owner, ""
        self.annotation: Any = owner
        self.metadata: Sequence[Any] = ()
        self.field: FieldInfo | None = None


def _place(loc: tuple[int | str, ...], spec: type[Spec]) -> _Place:
    place = _Place(spec)
    for part in loc:
        if is_spec(place.annotation):
            place.owner, place.name = place.annotation, str(part)
            place.field = place.owner.model_fields.get(str(part))
            place.annotation = place.field.annotation if place.field else None
            place.metadata = place.field.metadata if place.field else ()
        elif get_origin(place.annotation) is dict:
            place.annotation, place.metadata = _unwrapped(get_args(place.annotation)[1])
        elif isinstance(part, int) and get_args(place.annotation):
            place.key += f"[{part}]"
            place.annotation, place.metadata = _unwrapped(get_args(place.annotation)[0])
            continue
        else:  # the name of a union's branch: the key ends before it
            break
        place.key += f".{part}" if place.key else str(part)
    return place


def _unwrapped(annotation: Any) -> tuple[Any, Sequence[Any]]:
    """`Annotated[int, Ge(0)]` -> int and its bounds."""
    if get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()


def _unknown_key(key: str, place: _Place, value: Any, spec: type[Spec], prefix: str) -> Problem:
    names = list(place.owner.model_fields)
    table = key.rpartition(".")[0]
    meant = guess(place.name, names)
    if meant:
        concerned = f"{table}.{meant}".lstrip(".")
        return Problem(key, "unknown key", f"did you mean '{meant}'?", value, meant=concerned)
    elsewhere = [prefix + other for other in keys(spec) if other.rpartition(".")[2] == place.name]
    if elsewhere:
        return Problem(key, "unknown key", f"did you mean '{elsewhere[0]}'?", value, meant=elsewhere[0])
    where = f"of [{table}]" if table else "at the top of the file"
    return Problem(key, "unknown key", f"remove it; known {where}: {', '.join(names)}", value)


def _missing(key: str, place: _Place) -> list[Problem]:
    if is_spec(place.annotation):
        table: type[Spec] = place.annotation
        required = {name: field for name, field in table.model_fields.items() if field.is_required()}
        return [_gap(f"{key}.{name}", field) for name, field in required.items()]
    return [_gap(key, place.field)]


def _gap(key: str, field: FieldInfo | None) -> Problem:
    table, _, name = key.rpartition(".")
    example = example_of(field)
    where = f" under [{table}]" if table else " at the top of the file"
    return Problem(key, "missing", f"write such as `{name} = {shown(example)}`{where}")


def example_of(field: FieldInfo | None) -> Any:
    """What a required key may hold: its first example, else something of its type."""
    if field is None:
        return "..."
    return field.examples[0] if field.examples else _within(field.annotation, field.metadata)


def _wrong_value(key: str, place: _Place, detail: Mapping[str, Any]) -> Problem:
    value = detail["input"]
    if detail["type"] == "value_error":
        what, _, remedy = str(detail["ctx"]["error"]).partition("; ")
        shows = {} if isinstance(value, dict) else {"value": value}
        return Problem(key, what, remedy or "see jobs/README.md for what the key means", **shows)
    if get_origin(place.annotation) is Literal and isinstance(value, str):
        return Problem(key, "unknown value", choose(value, map(str, get_args(place.annotation))), value)
    expected = kind(place.annotation, place.metadata)
    if expected == "a value":
        expected = detail["msg"].lower()
    return Problem(key, f"expected {expected}", _instead(place, value), value)


def _instead(place: _Place, value: Any) -> str:
    """What to write in place of a value of the wrong type or out of bounds."""
    annotation = place.annotation
    if annotation is int and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if annotation in (int, float) and isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return f"write {value} without quotes"
    if annotation is bool and str(value).lower() in ("true", "false", "0", "1"):
        return f"write {'true' if str(value).lower() in ('true', '1') else 'false'} without quotes"
    if annotation is str and isinstance(value, int | float) and not isinstance(value, bool):
        return f"write '{value}' with quotes"
    if is_spec(annotation) or get_origin(annotation) is dict:
        return f"write it as a table, [{place.key}], with its keys below"
    if get_origin(annotation) is list and isinstance(value, str):
        return f"write [{shown(value)}]"
    if place.field is None or not place.key.endswith(place.name):
        return f"write such as {shown(_within(annotation, place.metadata))}"
    if place.field.is_required():
        return f"write such as {shown(example_of(place.field))}"
    return f"write such as {shown(place.field.get_default(call_default_factory=True))}, the default"


def _within(annotation: Any, metadata: Iterable[Any]) -> Any:
    """A value of a type within its bounds."""
    if annotation not in (int, float):
        return {bool: True}.get(annotation, "...")
    limits = _limits(metadata)
    return annotation(limits.get("ge", limits["gt"] + 1 if "gt" in limits else limits.get("le", 1)))
