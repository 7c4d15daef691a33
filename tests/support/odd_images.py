"""Images of every odd kind that people keep in data sets, each with what a person sees when opening it.

What is seen comes from the source of the picture, or from Pillow alone where the format loses something.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from gen_dist.data.decode import decode_image_into
from tests.support.shards import noise

Odd = tuple[bytes, Image.Image]  # the file, and the upright picture in RGB
SIZE_PX = (61, 40)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def odd_images() -> dict[str, Odd]:
    """Every case by name."""
    return dict([*_transparent(), *_greys_and_palettes(), *_jpegs(), *_turned(), *_animated(), *_deep(), *_sizes()])


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(width_px: int, height_px: int) -> Image.Image:
    """A picture with edges, gradients and grain, the same each time."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    waves = np.stack([np.sin(x / 7), np.cos(y / 9), np.sin((x + y) / 11) + (x > width_px / 2)], -1)
    grain = np.random.default_rng(width_px * 9973 + height_px).normal(0, 8, waves.shape)
    return Image.fromarray((128 + 70 * waves + grain).clip(0, 255).astype(np.uint8))


def as_pillow_sees(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = pixels[..., 3:] / 255
    return Image.fromarray((pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))


def png_file(samples: np.ndarray, colour_type: int) -> bytes:
    """A PNG of (H, W, C) big-endian 16-bit samples, a depth that Pillow does not write in colour."""
    height_px, width_px = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))

    head = struct.pack(">LLBBBBB", width_px, height_px, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def flat_jpeg(width_px: int, height_px: int, *, sampling: tuple[int, ...]) -> bytes:
    """A mid-grey JPEG of any size and any sampling factors (0x41: four across, one down): every coefficient is 0."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    numbered = list(enumerate(sampling, 1))
    frame = struct.pack(">BHHB", 8, height_px, width_px, len(sampling))
    frame += b"".join(bytes([number, factors, 0]) for number, factors in numbered)
    tables = b"".join(segment(0xC4, bytes([kind, 1, *[0] * 15, 0])) for kind in (0x00, 0x10))  # one code of one bit
    scan = bytes([len(sampling)]) + b"".join(bytes([number, 0]) for number, _ in numbered) + bytes([0, 63, 0])
    across, down = max(factors >> 4 for factors in sampling), max(factors & 15 for factors in sampling)
    num_units = -(-width_px // (8 * across)) * -(-height_px // (8 * down))
    num_bits = 2 * num_units * sum((factors >> 4) * (factors & 15) for factors in sampling)
    whole, rest = divmod(num_bits, 8)
    bits = bytes(whole) + (bytes([0xFF >> rest]) if rest else b"")
    head = b"\xff\xd8" + segment(0xDB, bytes([0, *[1] * 64])) + segment(0xC0, frame) + tables
    return head + segment(0xDA, scan) + bits + b"\xff\xd9"


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x010F] = "a maker whose name does not fit into its entry"
    found[0x0112] = orientation
    return found


def _transparent() -> Iterator[tuple[str, Odd]]:
    for mode in ("RGBA", "LA"):
        image = noise(1, size_px=48, mode=mode)
        yield f"{mode} PNG", (saved(image, "PNG"), on_white(image))
    image = noise(2, size_px=48)
    yield "RGBA WebP", (saved(image, "WEBP", lossless=True, exact=True), on_white(image))
    palette = noise(3, size_px=48, mode="RGB").quantize(16)
    seen = np.asarray(palette.convert("RGB")).copy()
    seen[np.asarray(palette) == 3] = 255
    yield "palette PNG with a transparent colour", (saved(palette, "PNG", transparency=3), Image.fromarray(seen))
    yield "GIF with a transparent colour", (saved(palette, "GIF", transparency=3), Image.fromarray(seen))


def _greys_and_palettes() -> Iterator[tuple[str, Odd]]:
    colour = photo(*SIZE_PX)
    for mode in ("1", "L", "P"):
        image = colour.convert(mode)
        yield f"{mode} PNG", (saved(image, "PNG"), image.convert("RGB"))
    for form in ("BMP", "TIFF", "PPM"):
        yield f"RGB {form}", (saved(colour, form), colour)
    lossy = saved(colour, "WEBP", quality=80)
    yield "lossy WebP", (lossy, as_pillow_sees(lossy))


def _jpegs() -> Iterator[tuple[str, Odd]]:
    colour = photo(*SIZE_PX)
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            data = saved(colour, "JPEG", subsampling=sampling, progressive=progressive)
            yield f"{'progressive ' * progressive}{sampling} JPEG", (data, as_pillow_sees(data))
    for mode in ("L", "CMYK"):
        data = saved(colour.convert(mode), "JPEG", quality=95)
        yield f"{mode} JPEG", (data, as_pillow_sees(data))
    yield "JPEG that stores RGB", _both(saved(colour, "JPEG", keep_rgb=True))
    ink = np.ascontiguousarray(255 - np.asarray(colour.convert("CMYK")))
    yield "YCCK JPEG", _both(simplejpeg.encode_jpeg(ink, colorspace="CMYK", colorsubsampling="420"))
    yield "JPEG sampled four across, two down", _both(flat_jpeg(61, 40, sampling=(0x42, 0x11, 0x11)))
    plain = saved(colour, "JPEG")
    yield "JPEG with padded markers", (plain[:2] + b"\xff\xff" + plain[2:], as_pillow_sees(plain))
    more = saved(colour, "MPO", save_all=True, append_images=[photo(*SIZE_PX[::-1])])
    yield "JPEG with a second picture (MPO)", _both(more)
    yield "JPEG with something behind it", (plain + b"\0" * 100, as_pillow_sees(plain))


def _both(data: bytes) -> Odd:
    return data, as_pillow_sees(data)


def _turned() -> Iterator[tuple[str, Odd]]:
    colour = photo(*SIZE_PX)
    for orientation in range(1, 9):
        for form in ("JPEG", "PNG", "WEBP"):
            data = saved(colour, form, exif=exif(orientation))
            seen = as_pillow_sees(data)
            turn = _TURNS.get(orientation)
            yield f"{form} turned {orientation}", (data, seen if turn is None else seen.transpose(turn))
    data = saved(colour, "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    yield "JPEG turned by XMP", (data, as_pillow_sees(data).transpose(Image.Transpose.ROTATE_270))
    broken = saved(colour, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    yield "JPEG with broken EXIF", (broken, as_pillow_sees(broken))
    ink = saved(colour.convert("CMYK"), "JPEG", exif=exif(8))
    yield "CMYK JPEG turned 8", (ink, as_pillow_sees(ink).transpose(Image.Transpose.ROTATE_90))


def _animated() -> Iterator[tuple[str, Odd]]:
    frames = [noise(number, size_px=48, mode="RGB").quantize(32).convert("RGB") for number in range(3)]
    more: dict[str, object] = {"save_all": True, "append_images": frames[1:], "duration": 20}
    yield "animated GIF", (saved(frames[0], "GIF", **more), frames[0])
    yield "animated WebP", (saved(frames[0], "WEBP", lossless=True, **more), frames[0])
    yield "animated PNG", (saved(frames[0], "PNG", **more), frames[0])


def _deep() -> Iterator[tuple[str, Odd]]:
    levels = np.random.default_rng(4).integers(0, 65536, (40, 61, 4))
    high = (levels >> 8).astype(np.uint8)
    grey = Image.fromarray(np.ascontiguousarray(np.broadcast_to(high[..., :1], (40, 61, 3))))
    yield "16-bit grey PNG", (png_file(levels[..., :1], 0), grey)
    yield "16-bit RGB PNG", (png_file(levels[..., :3], 2), Image.fromarray(np.ascontiguousarray(high[..., :3])))
    yield "16-bit RGBA PNG", (png_file(levels, 6), on_white(Image.fromarray(high)))


def _sizes() -> Iterator[tuple[str, Odd]]:
    for size_px in ((1, 1), (1, 40), (8000, 50), (50, 8000), (17, 33)):
        image = photo(*size_px)
        yield f"{size_px[0]} x {size_px[1]} PNG", (saved(image, "PNG"), image)
        yield f"{size_px[0]} x {size_px[1]} JPEG", _both(saved(image, "JPEG", quality=90))


def decode_image(data: bytes, *, height_px: int, width_px: int) -> np.ndarray:
    """(3, H, W) uint8 of the largest centred box, as a batch holds it. Raises: DecodeError."""
    pixels_HWC = np.empty((height_px, width_px, 3), np.uint8)
    decode_image_into(data, pixels_HWC)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))
