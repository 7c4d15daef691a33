"""From what a person names to a listing: which of the known kinds of source a folder, file or bucket is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from gen_dist.data.errors import DataError
from gen_dist.data.pack.folder import Table, is_image, list_sidecars, list_tables, walk
from gen_dist.data.pack.listing import NOT_FOUND, Listing
from gen_dist.data.pack.options import SourceSpec
from gen_dist.data.pack.split import check_split, split_of
from gen_dist.data.pack.tables import SUFFIXES

METADATA = tuple(f"metadata{suffix}" for suffix in SUFFIXES)  # the names that Hugging Face's imagefolder knows


def list_source(spec: SourceSpec) -> Listing:
    """Every sample of the source. Raises: DataError saying what was seen and what to write; StoreError."""
    if "://" in spec.url:
        if spec.captions:
            raise DataError(f"--captions {spec.captions}: {spec.url} is read as tars", remedy="name a folder of images")
        return _tars(spec)
    root = Path(spec.url)
    if root.suffix == ".parquet" and root.is_file():
        return _rows(spec, root.parent, [root.name])
    if not root.is_dir():
        seen = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{spec.url} {seen}", remedy="name a folder, a parquet file or s3://bucket/prefix")
    if (root / "dataset_dict.json").exists():
        return list_source(_with_url(spec, str(_split_folder(root, spec.split))))
    files = walk(root)
    if spec.captions:
        if spec.split:
            remedy = "name the folder or the table of that split, and leave --split out"
            raise DataError(f"--split {spec.split}: the rows of --captions say which images are read", remedy=remedy)
        return list_tables(root, files, [_table(spec, Path(spec.captions), "")])
    return _by_content(spec, root, files)


def _by_content(spec: SourceSpec, root: Path, files: dict[str, int]) -> Listing:
    tars = [name for name in files if name.endswith(".tar")]
    images = [name for name in files if is_image(name)]
    if tars and images:
        what = f"{len(tars)} tars and {len(images)} images"
        raise DataError(f"{spec.url} holds {what}", remedy="name a folder with one kind of source")
    if tars:
        return _tars(spec)
    if images:
        return _images(spec, root, files, images)
    held = [name for name in files if name.endswith((".parquet", ".arrow")) and not _is_cache(name)]
    if held:
        return _rows(spec, root, held)
    kinds = sorted({PurePosixPath(name).suffix or name for name in files})
    seen = f"only {', '.join(kinds[:8])}" if kinds else "no files"
    raise DataError(f"{spec.url} holds {seen}", remedy="name a folder of images, tars, parquet or arrow files")


def _images(spec: SourceSpec, root: Path, files: dict[str, int], images: list[str]) -> Listing:
    """Those of one split where it is named, and else all of them."""
    tables = [name for name in files if PurePosixPath(name).name in METADATA]
    if spec.split:
        check_split(spec.split, {split_of(name) for name in images}, where=str(root))
        # a table above the folders of the splits is of all of them
        tables = [name for name in tables if split_of(name) in ("", spec.split)]
        files = {name: size for name, size in files.items() if split_of(name) == spec.split}
    if not tables:
        return list_sidecars(root, files)
    bases = {name: name.removesuffix(PurePosixPath(name).name) for name in tables}
    listing = list_tables(root, files, [_table(spec, root / name, base) for name, base in bases.items()])
    if not spec.split:
        return listing
    meant = ("", spec.split)  # rows of another split are not missed
    left_out = [left for left in listing.left_out if left.reason != NOT_FOUND or split_of(left.name) in meant]
    return replace(listing, left_out=left_out)


def _table(spec: SourceSpec, path: Path, base: str) -> Table:
    return Table(path, base, spec.image_column, spec.caption_column, needs_caption=bool(spec.captions))


def _tars(spec: SourceSpec) -> Listing:
    if spec.split:
        remedy = "choose shards by their names with --pattern, such as 'train-*.tar'"
        raise DataError(f"--split {spec.split}: {spec.url} is read as tars", remedy=remedy)
    from gen_dist.data.pack.tars import list_tars
    from gen_dist.store import open_store

    return list_tars(open_store(spec.url, spec.s3), spec.pattern)


def _rows(spec: SourceSpec, root: Path, names: list[str]) -> Listing:
    from gen_dist.data.pack.rows import has_image_bytes, list_rows

    if not has_image_bytes(root / names[0]):
        remedy = f"name the folder of the images, with --captions {names[0]}"
        raise DataError("no column of image bytes", shard=str(root / names[0]), remedy=remedy)
    return list_rows(root, names, split=spec.split, image_column=spec.image_column, caption_column=spec.caption_column)


def _split_folder(root: Path, split: str) -> Path:
    splits = sorted(path.parent.name for path in root.glob("*/dataset_info.json"))
    if not split and len(splits) == 1:
        return root / splits[0]
    if split not in splits:
        what = f"--split {split}: no such split" if split else f"several splits: {', '.join(splits)}"
        raise DataError(what, shard=str(root), remedy=f"write --split with one of {', '.join(splits)}")
    return root / split


def _is_cache(name: str) -> bool:
    """Whether `datasets` left it behind beside the data."""
    return PurePosixPath(name).name.startswith("cache-")


def _with_url(spec: SourceSpec, url: str) -> SourceSpec:
    return replace(spec, url=url, split="")
