"""Taking a kernel out of its self-extracting image."""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest

from hwloop.vm import kernel

ELF = b"\x7fELF" + bytes(range(256)) * 40


def bz_image(payload: bytes, sectors: int = 2, offset: int = 100) -> bytes:
    """A boot sector with the fields of the real-mode header, and the payload where they say."""
    image = bytearray((sectors + 1) * 512 + offset)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    return bytes(image) + payload + b"what follows"


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress], ids=["xz", "gzip"])
def test_a_packed_kernel_is_unpacked(compress: object) -> None:
    size = struct.pack("<I", len(ELF))  # the kernel's build appends it
    assert kernel.extract(bz_image(compress(ELF) + size)) == ELF  # type: ignore[operator]


def test_an_image_packed_by_an_unknown_method_is_left_whole() -> None:
    image = bz_image(b"\x28\xb5\x2f\xfdzstandard")
    assert kernel.extract(image) == image


def test_a_payload_that_is_no_elf_file_is_not_taken() -> None:
    image = bz_image(lzma.compress(b"no kernel at all"))
    assert kernel.extract(image) == image


def test_a_file_that_is_no_bz_image_is_left_whole() -> None:
    assert kernel.extract(ELF) == ELF
