"""Do the links between pages lead somewhere, and is every page linked from somewhere?"""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import PAGES, ROOT, anchors, links, name_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{name_of(page)}: {link}"
        assert place.is_relative_to(ROOT), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(place), f"{name_of(page)}: {link}"


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page) if "://" not in link
    }
    assert [name_of(page) for page in PAGES if page not in linked and page != ROOT / "README.md"] == []
