"""What runs the blocks of the documents finds what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import syntax
from tests.documents.block import NO_CODE, NOT_RUN, QEMU, UNIT, VM, Unrunnable, blocks
from tests.documents.compare import difference
from tests.documents.page import Wrong, run_page
from tests.documents.shell import Command, transcript


def page(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def run(folder: Path, *lines: str) -> int:
    return run_page(blocks(page(*lines), "a.md"), folder, {UNIT})


# --- Blocks and their marks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ["    indented"],
        ["```", "no language", "```"],
        ["```c", "int main(void);", "```"],
        ["```text", "the output of nothing", "```"],
        ["<!-- not run: why -->", "```sh", "true", "```", "", "```text", "its output, it seems", "```"],
        ["<!-- not run -->", "```c", "a mark without a reason", "```"],
        ["<!-- run: moon -->", "```sh", "a mark that is none", "```"],
        ["```sh", "hwloop info 0000:00:05.0", "```"],
        ["```sh", "hwloop restore", "```"],
        ["```console", "$ hwloop zero vda --all", "```"],
        ["```python", 'hwloop.open("mmio:0xfeb02e00")', "```"],
        ["<!-- no code -->", "", "A paragraph between.", "", "    indented"],
    ],
)
def test_a_block_that_cannot_be_run_has_to_say_why(lines: list[str]) -> None:
    with pytest.raises(Unrunnable, match=r"a\.md:\d"):
        blocks(page(*lines), "a.md")


@pytest.mark.parametrize(
    ("lines", "how"),
    [
        (["```sh", "true", "```"], UNIT),
        (["```console", "$ hwloop info qemu:disk.img", "```"], QEMU),
        (["```python", 'hwloop.open("qemu:disk.img")', "```"], QEMU),
        (["<!-- run: qemu -->", "```sh", "./starts-one", "```"], QEMU),
        (["<!-- run: vm -->", "", "```console", "# hwloop list", "```"], VM),
        (["<!-- not run: needs two machines -->", "```sh", "hwloop list", "```"], NOT_RUN),
        (["<!-- no code -->", "    a drawing"], NO_CODE),
    ],
)
def test_a_block_says_where_it_is_run(lines: list[str], how: str) -> None:
    assert [block.how for block in blocks(page(*lines), "a.md")] == [how]


def test_output_goes_with_the_block_before_it() -> None:
    text = page("<!-- run: vm -->", "```sh", "hwloop list", "```", "", "```text", "nothing", "```")
    assert [block.how for block in blocks(text, "a.md")] == [VM, VM]


# --- Running ----------------------------------------------------------------------------------------------------------


def test_a_page_that_is_right_is_right(tmp_path: Path) -> None:
    count = run(
        tmp_path,
        *("```console", "$ echo one; echo two", "one", "two", "$ cd /", "$ pwd", "/"),
        *("$ (echo no; exit 3)", "no", "$ echo $?", "3"),
        *("$ cat <<END", "> x", "> END", "x", "```"),
        *("```python", "here = 1", "```", "```python", "print(here)", "```", "```text", "1", "```"),
        *("<!-- file: kept -->", "```json", '{"a": 1}', "```", "```sh", "test -s kept", "```"),
    )  # fmt: skip
    assert count == 6


@pytest.mark.parametrize(
    "lines",
    [
        ["```console", "$ echo one", "two", "```"],
        ["```console", "$ false", "```"],
        ["```console", "$ echo one", "```"],
        ["```console", "$ echo one; false", "...", "```"],
        ["```console", "$ (", "$ true", "```"],
        ["```console", "$ exit 0", "$ true", "```"],
        ["```sh", "false", "true", "```"],
        ["```python", "assert False", "```"],
        ["```python", "print(1)", "```", "```text", "2", "```"],
        ["```json", "{", "```"],
        ["```yaml", "a: [", "```"],
        ["```ini", "no section", "```"],
    ],
)
def test_a_page_that_is_wrong_fails_and_says_where(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(Wrong, match=r"a\.md"):
        run(tmp_path, "A paragraph.", "", *lines)


def test_a_command_in_the_background_is_waited_for_and_ends_with_the_page(tmp_path: Path) -> None:
    run(
        tmp_path,
        *("```console", "$ sh -c 'sleep 1; echo ready; echo $$ >pid; exec sleep 1000' &", "ready", "$ test -s pid"),
        *("```", "", "```sh", "kill -0 $(cat pid)", "```"),
    )
    pid = (tmp_path / "page/pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


def test_the_command_and_python_of_a_page_are_ours(tmp_path: Path) -> None:
    import hwloop

    run(
        tmp_path,
        *(
            "```console",
            "$ .venv/bin/hwloop features 1",
            "...",
            "$ python -c 'import hwloop, os; print(os.path.realpath(hwloop.__file__))'",
        ),
        *(str(hwloop.__file__), "```"),
    )


# --- Comparing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("a", "a\n"),
        ("", ""),
        ("a  \n", "a"),
        ("a\n...\nd", "a\nb\nc\nd"),
        ("a\n[... 2 more]", "a\nb\nc"),
        ("took ... s", "took 1.25 s"),
        ("...\nend", "end"),
    ],
)
def test_what_is_alike(said: str, printed: str) -> None:
    assert difference(said, printed) == ""


@pytest.mark.parametrize(("said", "printed"), [("a", "b"), ("a", ""), ("", "a"), ("a\n...", "b\na"), ("1 s", "2 s")])
def test_what_differs(said: str, printed: str) -> None:
    assert difference(said, printed)


def test_figures_may_vary() -> None:
    assert difference("IOPS   1,200  0x3f", "IOPS 9  0xff", figures_vary=True) == ""
    assert difference("IOPS 1", "p99 1", figures_vary=True)


def test_a_transcript_begins_with_a_command() -> None:
    assert transcript("$ a \\\n> b\nc\n$ d\n", "$") == [Command("a \\\nb", "c"), Command("d", "")]
    with pytest.raises(ValueError, match="begins with"):
        transcript("output\n", "$")


# --- Commands that are not run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("hwloop read 0000:00:05.0 0 4k -o first.bin", True),
        ("hwloop serve nbd vda --socket disk.sock &", True),
        ("hwloop vm run --disk disk.img -- sh -c 'hwloop list'", True),
        ("# hwloop copy 'vda?hal=vfio&wait=irq' - | zstd", True),
        ("hwloop raed vda", False),
        ("hwloop read vda 0 4k --otput x", False),
        ("hwloop serve vda", False),
    ],
)
def test_a_command_that_is_not_run_has_to_be_one(line: str, right: bool) -> None:
    [block] = blocks(page("<!-- not run: only read -->", "```sh", line, "```"), "a.md")
    assert (list(syntax.mistakes(block)) == []) == right
