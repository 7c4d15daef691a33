"""From the raw bytes of one source sample to the members that go into a shard."""

from __future__ import annotations

import json
from typing import Any

from gen_dist.data.pack.listing import BAD_TEXT, NO_CAPTION, TWO_IMAGES, Raw, RejectedError
from gen_dist.data.pack.options import PackOptions
from gen_dist.data.pack.pictures import Picture, prepare


def make_sample(
    raw: Raw | RejectedError, options: PackOptions, *, needs_caption: bool
) -> dict[str, bytes] | RejectedError:
    """Members by extension, or why there are none."""
    if isinstance(raw, RejectedError):
        return raw
    try:
        return _members(raw, options, needs_caption=needs_caption)
    except RejectedError as error:
        return error


def _members(raw: Raw, options: PackOptions, *, needs_caption: bool) -> dict[str, bytes]:
    has_caption = raw.caption is not None and bool(raw.caption.strip())
    if needs_caption and not has_caption:
        raise RejectedError(NO_CAPTION, "the caption is empty" if raw.caption is not None else "")
    picture = prepare(raw.image, options)
    if picture.extension in raw.others:
        raise RejectedError(TWO_IMAGES, f".{picture.extension} is taken by another member of the sample")
    members = {picture.extension: picture.data, **raw.others}
    if has_caption:
        members["txt"] = str(raw.caption).encode("utf-8", "replace")
    if raw.record is not None:
        members["json"] = _json({**raw.record, **_size(picture)})
    elif not picture.is_kept and "json" in members:
        members["json"] = _with_size(members["json"], picture)
    return members


def _size(picture: Picture) -> dict[str, int]:
    return {"width": picture.width_px, "height": picture.height_px}


def _with_size(data: bytes, picture: Picture) -> bytes:
    """A record of another's making; what it says of the size has to stay true."""
    try:
        record = json.loads(data)
    except ValueError as error:
        raise RejectedError(BAD_TEXT, f".json: {error}") from error
    if not isinstance(record, dict) or not record.keys() & {"width", "height"}:
        return data
    return _json({**record, **_size(picture)})


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
