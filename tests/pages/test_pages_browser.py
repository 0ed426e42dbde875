"""Who wants a page, and whose form may wait on one of ours."""

import pytest
from awake import cpu_s
from hypothesis import given
from hypothesis import strategies as st

from sidecar.pages.browser import is_from_another_site, wants_page

OURS = ["https://www.example.com"]


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("TEXT/HTML ; Q=0.5", True),
        ("application/xhtml+xml", True),
        ("text/html, application/json", True),
        ("application/json, text/html", False),
        ("application/json;q=0.9, text/html", True),
        ("text/html;q=0.8, application/json;q=0.9", False),
        ("text/html;q=0.5, application/problem+json;q=0.5", True),
        ("application/vnd.api+json, text/html", False),
        ("text/json, text/html", False),
        ("text/html;level=1;q=0.4, text/html, application/json", True),
        ("text/html;q=0", False),
        ("text/html;q=0.000, */*", False),
        ("text/html;q=2", False),
        ("text/html;q=-1", False),
        ("text/html;q=", False),
        ("text/html;q=nan", False),
        ("application/json;q=0, text/html;q=0.1", True),
        ("*/*", False),
        ("text/*", False),
        ("text/plain", False),
        ("nottext/html", False),
        ("", False),
        ("*/*," * 40 + "text/html", False),
        (" " * 3000 + "text/html", False),
    ],
)
def test_a_page_is_for_whom_html_comes_before_any_json(accept: str, wants: bool) -> None:
    """By weight, then by order; `*/*` is no wish for a page."""
    assert wants_page([accept]) is wants


def test_accept_in_several_fields_is_one_list() -> None:
    """RFC 9110 section 5.3."""
    assert wants_page(["image/png", "text/html"])
    assert not wants_page(["application/json", "text/html"])
    assert not wants_page([])


@given(st.lists(st.text(max_size=40) | st.text(alphabet="text/hmljson;q=0.1, ", max_size=80), max_size=3))
def test_any_accept_is_answered(accept: list[str]) -> None:
    """Whatever it holds."""
    assert wants_page(accept) in {True, False}


@pytest.mark.parametrize("piece", ["text/html,", ";q=1", ",", ";", "text/html;q=0.", "\u0301"])
def test_a_long_accept_costs_nothing(piece: str) -> None:
    """Only so much of it is read."""
    accept = [piece * 20_000]
    assert cpu_s(lambda: wants_page(accept)) < 0.05


@pytest.mark.parametrize(
    ("site", "origin", "referer"),
    [
        ([], [], []),
        (["same-origin"], ["https://www.example.com"], []),
        (["none"], [], []),
        ([], ["https://www.example.com"], []),
        ([], ["HTTPS://WWW.EXAMPLE.COM:443"], []),
        ([], ["https://www.example.com"], ["https://elsewhere.example/"]),
        ([], [], ["https://www.example.com/form?x=1"]),
        (["same-origin"], ["null"], []),
        (["same-origin"], ["http://www.example.com"], []),
        (["same-origin"], ["https://www.example.com:8443"], []),
    ],
)
def test_what_our_own_site_sends_may_wait(site: list[str], origin: list[str], referer: list[str]) -> None:
    """Nothing in it names another site."""
    assert not is_from_another_site(site, origin, referer, OURS)


@pytest.mark.parametrize(
    ("site", "origin", "referer"),
    [
        (["cross-site"], [], []),
        (["same-site"], [], []),
        (["cross-site"], ["https://www.example.com"], []),
        (["same-origin", "cross-site"], ["https://www.example.com"], []),
        (["same-origin, cross-site"], [], []),
        (["anything"], [], []),
        ([""], [], []),
        ([], ["https://evil.example"], []),
        ([], ["https://example.com"], []),
        ([], ["https://www.example.com.evil.example"], []),
        ([], ["https://www.example.com@evil.example"], []),
        ([], ["http://www.example.com"], []),
        ([], ["https://www.example.com:8443"], []),
        ([], ["null"], []),
        ([], [""], []),
        ([], ["https://www.example.com", "https://evil.example"], []),
        ([], ["https://www.example.com, https://evil.example"], []),
        ([], ["https://[::1"], []),
        ([], ["https://www.example.com:x"], []),
        (["same-origin"], ["https://evil.example"], []),
        (["none"], ["https://evil.example"], []),
        (["same-origin"], ["https://www.example.com", "null", "https://evil.example"], []),
        ([], [], ["https://evil.example/www.example.com"]),
        ([], [], ["https://www.example.com/", "https://evil.example/"]),
        ([], [], ["about:blank"]),
    ],
)
def test_what_another_site_sends_may_not(site: list[str], origin: list[str], referer: list[str]) -> None:
    """Any value of any of the three that names another site counts."""
    assert is_from_another_site(site, origin, referer, OURS)


def test_an_origin_is_a_scheme_a_host_and_a_port() -> None:
    """Each as the client sees it; any of several of ours will do."""
    ours = ["http://[2001:DB8::1]:8080", "https://www.example.com", "http://"]
    assert not is_from_another_site([], ["http://[2001:db8::1]:8080"], [], ours)
    assert not is_from_another_site([], ["https://www.example.com"], [], ours)
    assert is_from_another_site([], ["http://[2001:db8::1]"], [], ours)
    assert is_from_another_site([], ["https://www.example.com"], [], [])
