"""Data sets in archives: as in the folder, without unpacking them; and archives that are made to do harm."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_NETWORKS, symlink
from sample_data import birds, jpeg, oxford

from stackflower.data import archives
from stackflower.data.archives import open_files
from stackflower.data.opening import open_source, source_part
from stackflower.data.prepared import prepare
from stackflower.errors import DataError


def image_folder(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 2)):
        (root / split / "some images").mkdir(parents=True)
        names = [f"some images/{number} é.jpg" for number in range(count)]
        for name in names:
            (root / split / name).write_bytes(jpeg())
        rows = [json.dumps({"file_name": name, "text": f"flower {name}"}) for name in names]
        (root / split / "metadata.jsonl").write_text("\n".join(rows))
    return root


def sidecars(root: Path) -> Path:
    (root / "a").mkdir(parents=True)
    for number in range(4):
        (root / "a" / f"{number}.png").write_bytes(jpeg())
        (root / "a" / f"{number}.txt").write_text(f"flower {number}\n")
    return root


def cub(root: Path) -> Path:
    birds(root / "CUB_200_2011")
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "folder": image_folder,
    "sidecar": sidecars,
    "oxford-102": oxford,
    "cub-200": cub,
}


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("layout", MAKERS)
def test_a_layout_in_an_archive_reads_as_in_the_folder(tmp_path: Path, layout: str, ending: str) -> None:
    if layout == "sidecar" and ending == "tar":
        pytest.skip("a plain tar file of images and texts is a WebDataset shard")
    folder = MAKERS[layout](tmp_path / "data" / "flowers")
    kind = {"tar": "tar", "tar.gz": "gztar", "tgz": "gztar", "tar.bz2": "bztar", "tar.xz": "xztar", "zip": "zip"}[
        ending
    ]
    made = shutil.make_archive(str(tmp_path / "made"), kind, tmp_path / "data")  # with a single folder at the top
    archive = Path(shutil.move(made, tmp_path / f"flowers.{ending}"))
    before = sorted(tmp_path.iterdir())
    assert source_part(str(archive))["name"] == source_part(str(folder))["name"] == layout
    one, other = open_source(str(archive)), open_source(str(folder))
    assert one.splits() == other.splits()
    for split in one.splits():
        assert one.rows(split) == other.rows(split)
        assert np.array_equal(prepare(one, split, 16).images, prepare(other, split, 16).images)
    assert sorted(tmp_path.iterdir()) == before, "nothing is unpacked beside it"


def test_a_run_trains_on_an_archive(stackflower, tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    shutil.make_archive(str(tmp_path / "flowers"), "zip", tmp_path / "data")
    said = stackflower("train", "--data", "flowers.zip", "--images", 8, "--out", "run", *TINY_NETWORKS).output
    assert "flowers.zip is an image folder with metadata: train 5, validation 2 images" in said


def zipped(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def metadata(*names: str) -> bytes:
    return "\n".join(json.dumps({"file_name": name, "text": "a"}) for name in names).encode()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/x.jpg", "a/../../x.jpg", "C:\\x.jpg"])
def test_names_that_lead_out_of_an_archive_are_refused(stackflower, tmp_path: Path, name: str) -> None:
    zipped(tmp_path / "bad.zip", ("1.jpg", jpeg()), (name, jpeg()), ("metadata.jsonl", metadata("1.jpg", name)))
    said = stackflower("data", "check", "bad.zip", code=2).output
    assert "line 2 names" in said and ("leads out of the archive" in said or "which does not exist" in said)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


def test_links_and_repeated_names_in_archives_are_told(stackflower, tmp_path: Path) -> None:
    entries = [
        ("1.jpg", jpeg()),
        (link("2.jpg"), b"/etc/passwd"),
        ("metadata.jsonl", metadata("1.jpg", "2.jpg", "3.jpg")),
    ]
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped(tmp_path / "links.zip", *entries, ("3.jpg", jpeg()), ("3.jpg", jpeg()))
    said = stackflower("data", "check", "links.zip", code=2).output
    assert "names 2.jpg, which is a link" in said and "train: 2 images" in said
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for name, content in (("metadata.jsonl", metadata("1.jpg", "hard.jpg", "soft.jpg")), ("1.jpg", jpeg())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, kind in (
            ("hard.jpg", tarfile.LNKTYPE),
            ("soft.jpg", tarfile.SYMTYPE),
            ("device.jpg", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    said = stackflower("data", "check", "links.tar", code=2).output
    assert "names hard.jpg, which is a link" in said and "names soft.jpg, which is a link" in said


def test_damaged_archives_are_named(stackflower, tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    for kind in ("zip", "gztar", "tar"):
        whole = Path(shutil.make_archive(str(tmp_path / "whole"), kind, tmp_path / "data"))
        content = whole.read_bytes()
        for length in (0, 1, len(content) // 3, len(content.rstrip(b"\0")) - 10):
            bad = tmp_path / f"cut{''.join(whole.suffixes)}"
            bad.write_bytes(content[:length])
            said = stackflower("data", "check", bad, code=2).output
            assert "cut" in said, (kind, length)
    stored = zipped(tmp_path / "flip.zip", ("1.jpg", jpeg()), ("metadata.jsonl", metadata("1.jpg")))
    content = bytearray(stored.read_bytes())
    at = content.find(b"\xff\xd8")  # the image: a zip file has checksums
    content[at + 60 : at + 64] = b"\0\0\0\0"
    (tmp_path / "flip.zip").write_bytes(content)
    assert "flip.zip" in stackflower("data", "check", "flip.zip", code=2).output


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    content = bytearray(
        zipped(tmp_path / "x.zip", ("1.jpg", jpeg()), ("metadata.jsonl", metadata("1.jpg"))).read_bytes()
    )
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        content[at + offset] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"1\.jpg, which is encrypted"):
        open_source(str(tmp_path / "x.zip")).rows("train")


def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SMALL_ARCHIVE", 2**20)
    zeros = bytes(2**23)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", zeros)
    with tarfile.open(tmp_path / "bomb.tar.xz", "w:xz") as tar:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(zeros)
        tar.addfile(member, io.BytesIO(zeros))
    for name in ("bomb.zip", "bomb.tar.xz"):
        with pytest.raises(DataError, match="refused as a decompression bomb"):
            open_source(str(tmp_path / name))
    assert not list(Path(os.environ["STACKFLOWER_CACHE"]).glob("archives/.*")), "half an archive is left"


def test_an_archive_in_an_archive_is_told(stackflower, tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", ("x.jpg", jpeg())).read_bytes()
    zipped(tmp_path / "outer.zip", ("inner.zip", inner), ("1.jpg", jpeg()), ("metadata.jsonl", metadata("1.jpg")))
    assert (
        "contains archives, which are not opened, such as inner.zip" in stackflower("data", "check", "outer.zip").output
    )
    zipped(tmp_path / "only.zip", ("inner.zip", inner))
    said = stackflower("data", "check", "only.zip", code=2).output
    assert "only.zip contains no readable images, tables or shards. Contents: inner.zip." in said


@pytest.mark.parametrize("way", ["folder", "zip"])
def test_texts_and_images_that_are_refused_are_told(tmp_path: Path, stackflower, way: str) -> None:
    """Where everything in a folder counts, a file that is not read is lost, unless it is named."""
    sidecars(tmp_path / "data")
    if way == "folder":
        (tmp_path / "elsewhere.jpg").write_bytes(jpeg())
        symlink(tmp_path / "data" / "a" / "9.jpg", tmp_path / "elsewhere.jpg")
        said = stackflower("data", "check", "data", code=2).output
        assert "9.jpg is a link out of the folder" in said
        return
    entries = [(f"{path.name}", path.read_bytes()) for path in sorted((tmp_path / "data" / "a").iterdir())]
    zipped(tmp_path / "x.zip", *entries, ("../9.png", jpeg()), ("../9.txt", b"lost"))
    assert "../9.png leads out of the archive" in stackflower("data", "check", "x.zip", code=2).output


def test_links_to_folders_inside_are_followed(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "data")
    (root / "train").rename(root / "v1")
    symlink(root / "train", "v1")
    source = open_source(str(root))
    assert source.splits() == ["train", "validation"] and len(source.rows("train")) == 5


def test_tar_headers_that_would_do_harm_are_refused(tmp_path: Path, stackflower) -> None:
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 4
    chain = (long.tobuf(tarfile.GNU_FORMAT) + b"abc\0" + bytes(508)) * 3000
    (tmp_path / "chain.tar").write_bytes(chain + bytes(1024))
    assert "can't be read as a tar file" in stackflower("data", "check", "chain.tar", code=2).output
    with tarfile.open(tmp_path / "negative.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("metadata.jsonl", metadata("1.jpg")), ("1.jpg", jpeg())):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(content), {"size": "-50"} if name == "1.jpg" else {}
            archive.addfile(member, io.BytesIO(content))
    assert "negative.tar" in stackflower("data", "check", "negative.tar", code=2).output


UNSAFE_NAMES = ("../../x.jpg", "/absolute.jpg", "a/../../x.jpg", "C:/x.jpg", "C:\\x.jpg")


def write_members(path: Path, names: tuple[str, ...]) -> None:
    """A tar file or shard of an image and a caption of each name, and of one good one."""
    with tarfile.open(path, "w") as archive:
        for name in ("good.jpg", *names):
            for member, content in ((name, jpeg()), (f"{name[:-4]}.txt", b"a flower")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("where", ["shards/train-000.tar", "packed.tar"])
def test_members_of_unsafe_and_odd_names_end_in_a_sentence(stackflower, tmp_path: Path, where: str) -> None:
    (tmp_path / "shards").mkdir()
    odd = ("n\0ul.jpg", "\udcff.jpg", "./b/./c.jpg", ".hidden/d.jpg", "__MACOSX/._e.jpg")
    write_members(tmp_path / where, (*UNSAFE_NAMES, *odd))
    with tarfile.open(tmp_path / where, "a") as archive:
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            device = tarfile.TarInfo(f"device{kind.decode()}.jpg")
            device.type = kind
            archive.addfile(device)
    data = where.split("/")[0]
    said = stackflower("data", "check", data, code=2).output
    for name in UNSAFE_NAMES:
        assert f"{name.removeprefix('/')} leads out of the archive" in said
    assert "\\xff.jpg has a name that is not UTF-8" in said and "hidden" not in said and "MACOSX" not in said
    assert said.count("is a link or a special file") == 3
    source = type(open_source(data))(path=data, skip_bad=True)
    files = source.rows("train").files or []
    assert len(prepare(source, "train", 16).images) == len(files)
    assert {"good", "c"} <= {Path(name).stem for name in files}


def test_shards_in_a_hidden_folder_are_read(tmp_path: Path) -> None:
    for folder in ("a", "b"):  # of the same name, so that samples are named by the whole path
        (tmp_path / ".cache" / folder).mkdir(parents=True)
        write_members(tmp_path / ".cache" / folder / "train-000.tar", ())
    source = open_source(str(tmp_path / ".cache" / "*" / "*.tar"))
    assert len(prepare(source, "train", 16).images) == 2


def test_an_encrypted_member_of_a_zip_is_named(stackflower, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in (("a.jpg", jpeg()), ("a.txt", b"a flower"), ("b.jpg", jpeg()), ("b.txt", b"a flower")):
            archive.writestr(name, content)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    assert "a.jpg is encrypted; unpack the archive" in stackflower("data", "check", "x.zip", code=2).output


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archives_end_in_data_errors(tmp_path: Path, kind: str) -> None:
    sidecars(tmp_path / "data" / "é")
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), kind, tmp_path / "data")).read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 2, 5))):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 255, rng.randrange(256)))
        directory = rng.randrange(len(damaged) - 900, len(damaged))
        damaged[directory] = rng.randrange(256)
        (tmp_path / f"x.{kind}").write_bytes(damaged)
        with contextlib.suppress(DataError):
            files = open_files(tmp_path / f"x.{kind}")
            for name in files.names:
                with contextlib.suppress(DataError):
                    files.read(name)
