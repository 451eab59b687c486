"""Links between the documents lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.documents.block import ROOT, name_of, pages

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """As GitHub and GitLab make them of headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in _HEADING.findall(text)}


@pytest.mark.parametrize("page", [name_of(page) for page in pages()])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / page
    # A link may be broken over two lines.
    text = re.sub(r"\n\s*", " ", path.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_every_page_can_be_found_from_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    named = [name_of(page).removeprefix("docs/") for page in pages() if page.parent.name != "adr"]
    assert [name for name in named if name != "README.md" and f"({name})" not in index] == []
