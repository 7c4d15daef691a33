"""The index: the same samples as webdataset sees, and nothing from a damaged shard."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from gen_dist.data.errors import DataError
from gen_dist.data.fields import check_fields
from gen_dist.data.index import Index, LeftOut, find_index
from gen_dist.data.index.scan import key_and_extension
from gen_dist.job.spec import DataSpec
from gen_dist.store import open_store
from tests.support.shards import FIELDS, Wanted, write_shards


def index_of(folder: Path, pattern: str = "*.tar") -> Index:
    return find_index(open_store(str(folder)), pattern)


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x") -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def webdataset_samples(folder: Path) -> list[dict[str, bytes]]:
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    return [
        {key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")}
        for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False)
    ]


def our_samples(folder: Path) -> list[dict[str, object]]:
    index = index_of(folder)
    found: list[dict[str, object]] = []
    for number in range(len(index)):
        sample = index.sample(number)
        data = (folder / sample.shard.name).read_bytes()
        members = {extension: data[first : first + size] for extension, (first, size) in sample.members.items()}
        found.append({"__key__": sample.key, **members})
    return found


def test_samples_are_grouped_as_webdataset_groups_them(tmp_path: Path) -> None:
    with wds.TarWriter(str(tmp_path / "a.tar")) as tar:
        for key in ("plain", "folder/nested", "folder/deeper/nested", "./dotted/start"):
            tar.write({"__key__": key, "png": key.encode(), "seg.PNG": b"2", "json": {"label": 1}})
        tar.write({"__key__": "long/" + "n" * 200, "txt": "longer than a plain tar header holds"})
    names = ["a/b.c/d.e.txt", "a/b.c/d.e.png", "noext", ".hidden", "__meta__/x.txt", "__meta__", "__almost__.txt"]
    names += ["r\u00e9sum\u00e9.txt", "last.txt"]
    with tarfile.open(tmp_path / "b.tar", "w") as plain:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        plain.addfile(folder)
        for name in names:
            add(plain, name, name.encode())
    with tarfile.open(tmp_path / "c.tar", "w") as same_name:
        add(same_name, "last.png", b"a shard of its own, so a sample of its own")
    assert our_samples(tmp_path) == webdataset_samples(tmp_path)


part = st.text("ab._/", min_size=1, max_size=6).filter(lambda text: not text.startswith("/") and not text.endswith("/"))


@settings(max_examples=100, deadline=None)
@given(st.lists(part, min_size=1, max_size=8, unique=True))
def test_any_names_are_grouped_as_webdataset_groups_them(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in names:
            add(tar, name, name.encode())
    expected = webdataset_samples(folder)
    if expected:
        assert our_samples(folder) == expected
    else:
        with pytest.raises(DataError, match="hold no samples"):
            index_of(folder)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77, 0.95])
def test_a_shard_that_was_cut_is_refused_by_name(tmp_path: Path, share: float) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=4)
    whole = (tmp_path / "train-00001.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    (tmp_path / "train-00001.tar").write_bytes(whole[: int(end * share)])
    with pytest.raises(DataError, match=r"train-00001\.tar: the shard is truncated") as caught:
        index_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shard_that_was_cut_between_two_members_is_refused_although_tarfile_takes_it(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=4)
    path = tmp_path / "train-00000.tar"
    with tarfile.open(path) as tar:
        border = tar.getmembers()[5].offset
    path.write_bytes(path.read_bytes()[:border])
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 5
    with pytest.raises(DataError, match=r"train-00000\.tar: the shard is truncated or damaged at byte \d+"):
        index_of(tmp_path)


def test_a_damaged_header_in_the_middle_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=4)
    path = tmp_path / "train-00000.tar"
    with tarfile.open(path) as tar:
        border = tar.getmembers()[5].offset
    data = bytearray(path.read_bytes())
    data[border : border + 100] = b"\xff" * 100
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged at byte"):
        index_of(tmp_path)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar" * 500)
    with pytest.raises(DataError, match=r"a\.tar: the shard is truncated or not a tar"):
        index_of(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar: the shard is truncated or not a tar"):
        index_of(tmp_path)


def test_a_compressed_shard_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        add(tar, "a.txt")
    with pytest.raises(DataError, match=r"compressed \(gzip\); unpack it to a plain \.tar"):
        index_of(tmp_path)


def test_a_sample_with_two_members_of_one_name_is_left_out_and_listed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("good.txt", "x.txt", "x.TXT", "last.txt"):
            add(tar, name)
    index = index_of(tmp_path)
    assert [index.sample(number).key for number in range(len(index))] == ["good", "last"]
    assert index.table(0).left_out == [LeftOut("x", "two members .txt")]


def test_a_pattern_without_shards_says_what_is_there(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=2, per_shard=1)
    with pytest.raises(DataError, match=r"no shard matches 'val-\*\.tar'; .*train-00000\.tar, train-00001\.tar"):
        index_of(tmp_path, "val-*.tar")


def test_the_digest_names_the_data_and_not_its_place(tmp_path: Path) -> None:
    for name, num_samples in (("one", 6), ("same", 6), ("more", 7)):
        write_shards(tmp_path / name, num_samples=num_samples, per_shard=4)
    one = index_of(tmp_path / "one").digest
    assert one == index_of(tmp_path / "same").digest
    assert one != index_of(tmp_path / "more").digest
    (tmp_path / "same" / "train-00001.tar").rename(tmp_path / "same" / "train-00002.tar")
    assert one != index_of(tmp_path / "same").digest


def test_an_index_pickles(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=6, per_shard=4)
    index = index_of(tmp_path)
    again = pickle.loads(pickle.dumps(index))
    assert again.digest == index.digest
    assert [again.sample(i) for i in range(6)] == [index.sample(i) for i in range(6)]


def test_a_sample_without_a_wanted_member_is_found_before_anything_starts(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=3, per_shard=3)
    with wds.TarWriter(str(tmp_path / "train-00001.tar")) as tar:
        tar.write({"__key__": "bad", "png": b"x", "json": {"label": 1}})
    spec = DataSpec(url=str(tmp_path))
    says = r"train-00001\.tar: sample 'bad': no member \.txt .*'caption' .it has \.json, \.png.; set data\.caption"
    with pytest.raises(DataError, match=says):
        check_fields(index_of(tmp_path), FIELDS, spec)
    check_fields(index_of(tmp_path), {"image": FIELDS["image"], "label": FIELDS["label"]}, spec)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (Wanted("sound"), "unknown kind 'sound'; use one of image, caption, label"),
        (Wanted("image", (1, 8, 8)), r"image shape \(1, 8, 8\); images are \(3, height, width\)"),
        (Wanted("label", (2,)), r"label shape \(2,\); a label has shape \(\)"),
    ],
)
def test_a_field_that_no_stream_gives_is_refused(tmp_path: Path, field: Wanted, says: str) -> None:
    write_shards(tmp_path, num_samples=1, per_shard=1)
    with pytest.raises(DataError, match=says):
        check_fields(index_of(tmp_path), {"x": field}, DataSpec(url=str(tmp_path)))


def test_a_data_error_survives_its_way_from_a_worker() -> None:
    error = DataError("what", shard="s.tar", key="k", remedy="do this")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "s.tar: sample 'k': what; do this"
    assert (again.shard, again.key, again.remedy) == ("s.tar", "k", "do this")


@settings(max_examples=500, deadline=None)
@given(st.text("ab._/\n ", max_size=12))
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    assert key_and_extension(name) == base_plus_ext(name)
