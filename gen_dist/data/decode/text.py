"""From the bytes of a text or JSON member to a caption or a label."""

from __future__ import annotations

import json

from gen_dist.data.decode.errors import Buffer, DecodeError, one_line


def decode_caption(data: Buffer, key: str = "") -> str:
    """The text of a UTF-8 member without space at its ends, or of `key` in a JSON member. Raises: DecodeError."""
    if not key:
        return _text(data).strip()
    value = _json_value(data, key)
    if not isinstance(value, str):
        raise DecodeError(f"{key!r} is {value!r:.60}, which is no text")
    return whole_text(value).strip()


def whole_text(text: str) -> str:
    """The same with a `?` for each lone surrogate, such as half an emoji in JSON, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def decode_label(data: Buffer, key: str = "") -> int:
    """The integer that a text member holds, or that stands under `key` in a JSON member. Raises: DecodeError."""
    value = _json_value(data, key) if key else _text(data).strip()
    named = f"{key!r} " if key else ""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DecodeError(f"the label {named}is {value!r:.60}, which is no integer")
    try:
        label = int(value)
    except ValueError as error:
        raise DecodeError(f"the label {named}is {value!r:.60}, which is no integer") from error
    if not -(1 << 63) <= label < 1 << 63:
        raise DecodeError(f"the label {named}has {label.bit_length()} bits; labels are integers of 64 bits")
    return label


def _text(data: Buffer) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"the text is not UTF-8 ({one_line(error)})") from error


def _json_value(data: Buffer, key: str) -> object:
    try:
        record = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"no readable JSON ({one_line(error)})") from error
    if not isinstance(record, dict) or key not in record:
        has = ", ".join(sorted(record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise DecodeError(f"the JSON has no key {key!r} (it has {has:.200})")
    return record[key]
