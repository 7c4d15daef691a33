"""What a JPEG says of itself before its first scan: size, number of components, which side is up. Costs 3 us.

Segments and markers: ITU-T T.81 annex B. Orientation: tag 0x0112 of EXIF 2.3, in the first APP1 segment that holds
EXIF; without it, `tiff:Orientation` of an XMP segment, as Pillow has it. Thumbnails and other segments are never read.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from gen_dist.data.decode.errors import Buffer, DecodeError

_START_OF_SCAN, _END_OF_IMAGE, _APP1, _TEMPORARY = 0xDA, 0xD9, 0xE1, 0x01
# Start of frame: 0xC0 to 0xCF without DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_ORIENTATION_TAG = 0x0112
_INTEGERS = {3: "H", 4: "L"}  # EXIF's SHORT, which it ought to be, and LONG


class JpegHeader(NamedTuple):
    """Sizes as stored, before any turn."""

    width_px: int
    height_px: int
    num_components: int
    orientation: int
    """EXIF's 1 to 8; 1 where there is none, or none that can be read."""


def read_jpeg_header(data: Buffer) -> JpegHeader:
    """The header of the JPEG in `data`, which starts with its two bytes ff d8. Raises: DecodeError."""
    width_px = height_px = num_components = 0
    from_exif = from_xmp = None
    at = 2
    try:
        while True:
            if data[at] != 0xFF:
                raise DecodeError(f"a broken JPEG: byte {at} is {data[at]:#04x} where a marker starts")
            marker = data[at + 1]
            if marker == 0xFF:  # padding
                at += 1
                continue
            if marker in (_START_OF_SCAN, _END_OF_IMAGE):
                break
            if marker == _TEMPORARY or 0xD0 <= marker <= 0xD7:  # markers without a segment
                at += 2
                continue
            end = at + 2 + (data[at + 2] << 8 | data[at + 3])
            if marker in _FRAMES and not num_components:
                height_px, width_px = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
                num_components = data[at + 9]
            elif marker == _APP1:
                segment = bytes(data[at + 4 : end])
                if from_exif is None and segment.startswith(_EXIF):
                    from_exif = exif_orientation(segment[len(_EXIF) :])
                elif segment.startswith(_XMP):
                    from_xmp = _XMP_ORIENTATION.search(segment)
            if end < at + 4:
                raise DecodeError(f"a broken JPEG: the segment at byte {at} has no length")
            at = end
    except IndexError as error:
        raise DecodeError(f"a JPEG that ends inside its header, at byte {len(data)}") from error
    if not num_components:
        raise DecodeError(f"a JPEG without a frame before byte {at}")
    orientation = from_exif or (int(from_xmp[1]) if from_xmp else 1)
    return JpegHeader(width_px, height_px, num_components, orientation if 1 <= orientation <= 8 else 1)


def exif_orientation(tiff: bytes) -> int | None:
    """The orientation in the first directory of an EXIF block (from its `II` or `MM` on); None where there is none.

    A block that cannot be read has none: the picture is whole without it.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(order + "L", tiff, 4)
        (num_entries,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * num_entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHL", tiff, entry)
            if tag == _ORIENTATION_TAG and count == 1 and kind in _INTEGERS:
                return int(struct.unpack_from(order + _INTEGERS[kind], tiff, entry + 8)[0])
    except struct.error:
        return None
    return None
