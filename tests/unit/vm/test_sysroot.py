"""Headers and libraries of the guest."""

from __future__ import annotations

from pathlib import Path

from hwloop.vm.sysroot import keep_links_inside


def test_links_from_the_root_lead_into_the_sysroot_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "lib/arm").mkdir(parents=True)
    (tmp_path / "lib/arm/ld.so").write_text("loader")
    (tmp_path / "lib/ld.so.1").symlink_to("/lib/arm/ld.so")
    (tmp_path / "lib/libx.so").symlink_to("arm/ld.so")
    (tmp_path / "lib/broken").symlink_to("/lib/none")
    keep_links_inside(tmp_path)
    assert (tmp_path / "lib/ld.so.1").readlink() == Path("arm/ld.so")
    assert (tmp_path / "lib/ld.so.1").read_text() == "loader"
    assert (tmp_path / "lib/libx.so").readlink() == Path("arm/ld.so")
    assert (tmp_path / "lib/broken").readlink() == Path("none")
