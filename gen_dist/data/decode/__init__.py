"""From the bytes of a member to an image, an array, a caption or a label. Anything else is a DecodeError."""

from __future__ import annotations

from gen_dist.data.decode.array import decode_array_into, decode_arrays_into
from gen_dist.data.decode.errors import DecodeError
from gen_dist.data.decode.image import decode_image_into, decode_images_into
from gen_dist.data.decode.pillow import MAX_PIXELS
from gen_dist.data.decode.text import decode_caption, decode_label

__all__ = [
    "MAX_PIXELS",
    "DecodeError",
    "decode_array_into",
    "decode_arrays_into",
    "decode_caption",
    "decode_image_into",
    "decode_images_into",
    "decode_label",
]
