"""What a user may call a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.errors import InvalidParam
from hwloop.target import KINDS, Target


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("0000:00:05.0", "pci", "0000:00:05.0"),
        ("00:05.0", "pci", "0000:00:05.0"),
        ("pci:0000:00:05.0", "pci", "0000:00:05.0"),
        ("pci:00:1f.7", "pci", "0000:00:1f.7"),
        ("ABCD:EF:1F.7", "pci", "abcd:ef:1f.7"),
        ("vda", "block", "vda"),
        ("/dev/vda", "block", "vda"),
        ("/dev/vda1", "block", "vda1"),
        ("nvme0n1", "block", "nvme0n1"),
    ],
)
def test_a_device_is_named_by_its_address_or_by_its_disk(text: str, kind: str, name: str) -> None:
    target = Target.parse(text)
    assert (target.kind, target.name, target.options) == (kind, name, {})


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "0000:00:20.0", "0000:00:05.8", "0000:00:5.0", "00:05", "pci:", "pci:vda", "usb:0000:00:05.0",
        "../vda", "/dev/../sda", "/dev/", "vda/1", "VDA", "1vda", "0000:00:05.0x", "0000:00:05.0\n", "vda\n", "v da",
        "00000:00:05.0", "０000:00:05.0", "vda?hal", "?hal=vfio",
    ],
)  # fmt: skip
def test_other_text_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InvalidParam) as caught:
        Target.parse(text)
    assert "\n" not in str(caught.value)


def test_options_stand_behind_a_question_mark() -> None:
    assert Target.parse("0000:00:05.0?hal=vfio&x=1%202").options == {"hal": "vfio", "x": "1 2"}
    assert Target.parse("vda?hal=").options == {"hal": ""}
    assert Target.parse("vda?").options == {}


@pytest.mark.parametrize("text", ["pci:0000:00:05.0", "vda"])
def test_a_target_prints_as_it_can_be_parsed(text: str) -> None:
    assert str(Target.parse(text)) == text
    assert Target.parse(str(Target.parse(text))) == Target.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_target_or_an_error_of_ours(text: str) -> None:
    try:
        target = Target.parse(text)
    except InvalidParam:
        return
    assert target.kind in ("pci", "block")
    assert "/" not in target.name
    assert ".." not in target.name


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"pci", "block"}))
def test_a_kind_with_nothing_behind_it_is_answered_with_an_example_of_that_kind(kind: str) -> None:
    with pytest.raises(InvalidParam, match=f"'{kind}:' has nothing behind {kind}:; give .*{kind}:[^ ]+$"):
        Target.parse(f"{kind}:")
