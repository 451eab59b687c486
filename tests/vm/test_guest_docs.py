"""The blocks of README.md and docs/ that need a device of a machine's own: one guest runs them all."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from hwloop import vm
from tests.documents.block import VM, blocks, name_of, pages
from tests.documents.page import check, commands_for_guest
from tests.documents.shell import results, script
from tests.vm.guest import MIB, image


def test_the_blocks_of_the_documents_do_in_a_guest_what_they_say(tmp_path: Path) -> None:
    found = []
    for page in pages():
        here = [block for block in blocks(page.read_text(encoding="utf-8"), name_of(page)) if block.how == VM]
        found += commands_for_guest(here, name_of(page)) if here else []
    commands = [command for _, command in found]
    assert len(commands) > 10
    text = "mkdir /tmp/jobs\nexport NO_COLOR=1 TERM=dumb COLUMNS=120\n" + script(commands, "/tmp/jobs")
    result = vm.run(["bash", "-c", text], disks=[f"{image(tmp_path, 'disk.img', 64 * MIB)},serial=DEMO0"], timeout=900)
    printed = results((result.stdout or b"").decode(errors="replace"), len(commands))
    for block, here in groupby(zip(found, printed, strict=False), key=lambda one: one[0][0]):
        pairs = list(here)
        check(block, [command for (_, command), _ in pairs], [one for _, one in pairs])
    assert len(printed) == len(commands)
