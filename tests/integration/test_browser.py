"""The status page of a running daemon in a real browser: on a desktop and a phone, light and dark."""

import pytest
from support.browser import NO_CHROMIUM, is_installed, look_at
from support.canned import Reply, canned
from support.installation import Daemon, Installation
from support.pages import read_page, rows

from rotator.web.page import POLICY

pytestmark = pytest.mark.skipif(not is_installed(), reason=NO_CHROMIUM)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 1600), (390, 3000)], ids=["desk", "phone"])
def test_the_page_is_shown_without_a_complaint_of_the_browser(
    fleet: tuple[Installation, Daemon], size: tuple[int, int], dark: bool
) -> None:
    rotator, daemon = fleet
    seen = look_at(daemon.url(admin=True) + "/?refresh=off", *size, dark=dark)
    assert seen.complaints == ()
    assert set(rows(read_page(seen.dom))) == set(rotator.config["targets"])
    assert seen.size == size
    assert seen.corner == ("#0d1117" if dark else "#ffffff"), "it has the style, and this scheme's"
    assert len(set(seen.rows)) > 300, "it is not blank"


def test_a_page_with_another_style_makes_the_browser_complain_and_is_blank() -> None:
    """Otherwise the test above could pass on any page."""
    page = Reply(200, "<!DOCTYPE html><style>body { background: #123456 }</style>", {"Content-Security-Policy": POLICY})
    with canned(lambda _: page) as other:
        seen = look_at(other.address, 400, 400)
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)
    assert seen.corner == "#ffffff"
    assert len(set(seen.rows)) < 5
