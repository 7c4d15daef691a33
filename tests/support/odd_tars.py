"""Tars in every odd shape that tools leave behind, written header by header where no tool would write them again."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.support.shards import noise, png

LONG = "folder/" * 30 + "a-name-longer-than-any-plain-header-holds/" + "n" * 120


def jpeg(seed: int = 0, *, size_px: int = 16, **options: object) -> bytes:
    file = io.BytesIO()
    noise(seed, size_px=size_px, mode="RGB").save(file, "JPEG", **options)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", *, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind in tarfile.REGULAR_TYPES else 0
    tar.addfile(info, io.BytesIO(data))


def nested(tar: tarfile.TarFile) -> None:
    for key in ("a/b/c/one", "a/b/two", "three", "a.b/c.d/four"):
        add(tar, f"{key}.png", png(noise(1)))
        add(tar, f"{key}.txt", key.encode())


def dots_in_keys(tar: tarfile.TarFile) -> None:
    for name in ("cat.0001.jpg", "cat.0001.txt", "dog.v2.final.jpg", "dog.txt"):
        add(tar, name, jpeg() if name.endswith("jpg") else name.encode())


def missing_captions(tar: tarfile.TarFile) -> None:
    for number in range(6):
        add(tar, f"{number:03d}.jpg", jpeg(number))
        if number % 2:
            add(tar, f"{number:03d}.txt", f"caption {number}".encode())


def empty_texts(tar: tarfile.TarFile) -> None:
    for number in range(4):
        add(tar, f"{number:03d}.jpg", jpeg(number))
        add(tar, f"{number:03d}.txt", b"")


def repeated_keys(tar: tarfile.TarFile) -> None:
    for name in ("same.jpg", "same.txt", "other.jpg", "other.txt", "same.jpg", "same.txt"):
        add(tar, name, jpeg() if name.endswith("jpg") else b"words")


def upper_case(tar: tarfile.TarFile) -> None:
    for name in ("IMG_1.JPG", "IMG_1.Txt", "img_1.JpEg", "img_1.TXT"):
        add(tar, name, jpeg() if name.lower().endswith(("jpg", "jpeg")) else b"words")


def letters(tar: tarfile.TarFile) -> None:
    for key in ("r\u00e9sum\u00e9", "\u732b/\u5b50\u732b", "\U0001f600", "spa ce", "new%20line", "\udcff\udcfe"):
        add(tar, f"{key}.jpg", jpeg())
        add(tar, f"{key}.txt", b"words")


def dot_slash(tar: tarfile.TarFile) -> None:
    add(tar, "./", kind=tarfile.DIRTYPE)
    for name in ("./a.jpg", "./a.txt", "./sub/b.jpg", "./sub/b.txt", ".hidden", "./.hidden.txt"):
        add(tar, name, jpeg() if name.endswith("jpg") else b"words")


def links_and_folders(tar: tarfile.TarFile) -> None:
    add(tar, "a.jpg", jpeg())
    add(tar, "folder", kind=tarfile.DIRTYPE)
    add(tar, "a.link.jpg", kind=tarfile.SYMTYPE, link="a.jpg")
    add(tar, "a.hard.jpg", kind=tarfile.LNKTYPE, link="a.jpg")
    add(tar, "a.fifo", kind=tarfile.FIFOTYPE)
    add(tar, "a.txt", b"words")
    add(tar, "__meta__/info.json", b"{}")
    add(tar, "README", b"no extension")
    add(tar, "b.jpg", jpeg())
    add(tar, "b.old", b"contiguous", kind=tarfile.CONTTYPE)


def long_names(tar: tarfile.TarFile) -> None:
    for number in range(3):
        add(tar, f"{LONG}{number}.jpg", jpeg(number))
        add(tar, f"{LONG}{number}.txt", b"words")


def empty_payloads(tar: tarfile.TarFile) -> None:
    for name, data in (("a.bin", b""), ("a.txt", b""), ("b.bin", b"x" * 512), ("b.txt", b"x" * 513)):
        add(tar, name, data)


READABLE: dict[str, Callable[[tarfile.TarFile], None]] = {
    shape.__name__: shape
    for shape in (
        nested,
        dots_in_keys,
        missing_captions,
        empty_texts,
        repeated_keys,
        upper_case,
        letters,
        dot_slash,
        links_and_folders,
        long_names,
        empty_payloads,
    )
}
"""Shapes that webdataset reads, and so do we, to the same samples."""

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path: Path, shape: Callable[[tarfile.TarFile], None], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        shape(tar)


def bad_images(tar: tarfile.TarFile) -> None:
    """Keys that begin with `bad` cannot be used; the others can."""
    whole = jpeg(size_px=64)
    animated = io.BytesIO()
    noise(1, mode="RGB").save(animated, "GIF", save_all=True, append_images=[noise(2, mode="RGB")])
    cmyk = io.BytesIO()
    noise(3, mode="RGB").convert("CMYK").save(cmyk, "JPEG")
    turned = Image.Exif()
    turned[0x0112] = 6
    side = io.BytesIO()
    noise(4, mode="RGB").resize((8, 24)).save(side, "JPEG", exif=turned.tobytes())
    members = {
        "good-1.jpg": whole,
        "bad-empty.jpg": b"",
        "bad-cut.jpg": whole[: len(whole) // 2],
        "bad-scan.jpg": whole[:700] + b"\xff\xff" * 40 + whole[780:],
        "bad-text.png": b"no image at all",
        "bad-png.png": png(noise(5))[:-40],
        "good-cmyk.jpg": cmyk.getvalue(),
        "good-gif.gif": animated.getvalue(),
        "good-grey.png": png(noise(6, mode="RGB").convert("L")),
        "good-dot.png": png(noise(7, size_px=1)),
        "good-turned.jpg": side.getvalue(),
    }
    for name, data in members.items():
        add(tar, name, data)
        add(tar, name.partition(".")[0] + ".txt", b"words")
