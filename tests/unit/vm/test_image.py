"""Choosing from Debian's packages."""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from hwloop.vm import image
from hwloop.vm.machine import AMD64, KERNELS


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bin/sh", "usr/bin/sh"),
        ("lib64/ld.so", "usr/lib64/ld.so"),
        ("usr/bin/env", "usr/bin/env"),
        ("library/x", "library/x"),
        ("lib", ""),
    ],
)
def test_files_of_the_old_folders_move_into_usr(name: str, place: str) -> None:
    assert image.merged(name) == place


@pytest.mark.parametrize(
    ("name", "target", "moved"),
    [
        ("lib/x86_64-linux-gnu/a.so", "a.so.1", "a.so.1"),
        ("bin/a", "../usr/bin/b", "/usr/bin/b"),
        ("sbin/a", "/bin/b", "/bin/b"),
        ("usr/lib/a", "../../lib/b", "../../lib/b"),
    ],
)
def test_links_still_hold_after_their_move(name: str, target: str, moved: str) -> None:
    assert image.link_target(name, target) == moved


def archive(**files: bytes | str) -> tarfile.TarFile:
    """`name="target"` is a link, `name=b"..."` a file; `__` for a slash."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, value in files.items():
            member = tarfile.TarInfo("./" + name.replace("__", "/"))
            if isinstance(value, str):
                member.type, member.linkname = tarfile.SYMTYPE, value
                tar.addfile(member)
            else:
                member.size, member.mode = len(value), 0o755
                tar.addfile(member, io.BytesIO(value))
    return tarfile.open(fileobj=io.BytesIO(out.getvalue()))


@pytest.mark.parametrize("link_first", [True, False])
def test_a_link_to_itself_after_the_merge_does_not_replace_the_file(tmp_path: Path, link_first: bool) -> None:
    members: dict[str, bytes | str] = {"usr__bin__touch": "/bin/touch", "bin__touch": b"program"}
    order = members if link_first else dict(reversed(members.items()))
    image.take(archive(**order), tmp_path, lambda name: False)
    assert (tmp_path / "usr/bin/touch").read_bytes() == b"program"
    assert not (tmp_path / "usr/bin/touch").is_symlink()


def test_what_the_rules_drop_is_left_out(tmp_path: Path) -> None:
    files = {
        "usr__share__doc__x__copyright": b"",
        "usr__lib__x86_64-linux-gnu__gconv__A.so": b"",
        "usr__lib__python3.11__test__a.py": b"",
        "usr__lib__python3.11__json__a.py": b"",
    }
    image.take(archive(**files), tmp_path, image._drop_pattern(AMD64).match)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["usr/lib/python3.11/json/a.py"]


def test_a_module_says_what_it_depends_on() -> None:
    assert image.depends(b"ELF\0license=GPL\0depends=virtio,virtio-ring\0name=x\0") == ["virtio", "virtio_ring"]
    assert image.depends(b"ELF\0depends=\0name=x\0") == []
    assert image.depends(b"ELF") == []


def test_modules_come_with_all_that_they_need_and_each_once() -> None:
    tar = archive(
        a=b"\0depends=b,c\0",
        b=b"\0depends=d\0",
        c=b"\0depends=d\0",
        d=b"\0depends=\0",
        unwanted=b"\0depends=\0",
    )
    modules = {member.name.removeprefix("./"): member for member in tar.getmembers()}
    names = [member.name for member in image._closure(tar, modules, ["a", "built_in"])]
    assert sorted(names) == ["./a", "./b", "./c", "./d"]


def test_the_newest_kernel_of_several_is_taken(tmp_path: Path) -> None:
    tar = archive(**{"boot__vmlinuz-6.1.0-9-amd64": b"old", "boot__vmlinuz-6.1.0-56-amd64": b"new" + bytes(1024)})
    assert image._take_kernel(tar, tmp_path / "kernel") == "6.1.0-56-amd64"
    assert (tmp_path / "kernel").read_bytes().startswith(b"new")


def test_packed_modules_are_unpacked_with_what_they_need(tmp_path: Path) -> None:
    tar = archive(
        **{
            "lib__modules__6__vduse.ko.xz": lzma.compress(b"\0depends=vdpa\0"),
            "lib__modules__6__vdpa.ko.xz": lzma.compress(b"\0depends=\0"),
            "lib__modules__6__unwanted.ko.xz": lzma.compress(b"\0depends=\0"),
        },
    )
    image._take_modules(tar, "6", tmp_path, ["vduse"])
    found = {path.name: path.read_bytes() for path in (tmp_path / "usr/lib/modules/6").iterdir()}
    assert found == {"vduse.ko": b"\0depends=vdpa\0", "vdpa.ko": b"\0depends=\0"}


def test_a_newer_kernel_makes_another_image_and_leaves_the_usual_one_as_it_is() -> None:
    newer = KERNELS["6.12"]
    assert image._key(AMD64) != image._key(AMD64, newer)
    assert image._key(AMD64) == image._key(AMD64, None)


def test_what_only_the_newer_kernels_packages_bring_is_left_out_with_it() -> None:
    drop = image._drop_pattern(AMD64, KERNELS["6.12"].drop)
    assert drop.match("usr/lib/x86_64-linux-gnu/libgstreamer-1.0.so.0")
    assert drop.match("usr/share/doc/x")
    assert not drop.match("usr/bin/qemu-storage-daemon")
