"""sidecar/config/proxies.py: which call leaves through which proxy, by the configuration and by the environment."""

import base64

import pytest

from sidecar.config.findings import UnfitError
from sidecar.config.proxies import Proxies, Proxy, is_exempt, read_proxy

VENDOR = "https://sms.example.com/send"
PLAIN = "http://sms.example.com/send"


def basic(userinfo: str) -> str:
    return f"Basic {base64.b64encode(userinfo.encode()).decode()}"


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("http://proxy.lan:3128", Proxy("http://proxy.lan:3128")),
        ("http://proxy.lan:3128/", Proxy("http://proxy.lan:3128")),
        ("http://proxy.lan", Proxy("http://proxy.lan:80")),
        ("http://[2001:db8::1]:3128", Proxy("http://[2001:db8::1]:3128")),
        ("http://ann:s3cr3t@proxy.lan:3128", Proxy("http://proxy.lan:3128", basic("ann:s3cr3t"))),
        ("http://a%40b:p%3A%2F%23%C3%A9@proxy.lan:3128", Proxy("http://proxy.lan:3128", basic("a@b:p:/#é"))),
        ("http://ann@proxy.lan:3128", Proxy("http://proxy.lan:3128", basic("ann:"))),
        ("http://ann:a@b@proxy.lan:3128", Proxy("http://proxy.lan:3128", basic("ann:a@b"))),
    ],
)
def test_proxy_is_read_with_its_user(value: str, proxy: Proxy) -> None:
    assert read_proxy(value) == proxy


@pytest.mark.parametrize(
    "value",
    [
        *("proxy.lan:3128", "proxy.lan", "//proxy.lan:3128", "http://", "http://:3128", "http://proxy.lan:0"),
        *("http://proxy.lan:99999", "http://proxy.lan:x", "http://proxy.lan/x", "http://proxy.lan?x", "http://a b:1"),
        *("https://proxy.lan:3128", "socks5://proxy.lan:1080", "http://ann:p#w@proxy.lan:1", "http://[::1:3128", "*"),
    ],
)
def test_what_is_no_proxy_is_refused_without_its_password(value: str) -> None:
    with pytest.raises(UnfitError, match="proxy") as raised:
        read_proxy(value)
    assert "p#w" not in str(raised.value)


def test_password_is_not_shown() -> None:
    assert "Basic" not in repr(read_proxy("http://ann:s3cr3t@proxy.lan:3128"))


@pytest.mark.parametrize(
    ("env", "secure", "plain"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://s.lan:1", "HTTP_PROXY": "http://p.lan:2"}, "http://s.lan:1", "http://p.lan:2"),
        ({"https_proxy": "http://s.lan:1", "http_proxy": "http://p.lan:2"}, "http://s.lan:1", "http://p.lan:2"),
        ({"HTTPS_PROXY": "s.lan:1"}, "http://s.lan:1", None),
        ({"HTTP_PROXY": "http://p.lan:2"}, None, "http://p.lan:2"),
        ({"HTTPS_PROXY": "http://big.lan:1", "https_proxy": "http://small.lan:1"}, "http://small.lan:1", None),
        ({"HTTPS_PROXY": "http://big.lan:1", "https_proxy": ""}, None, None),
        ({"HTTPS_PROXY": "http://s.lan:1", "NO_PROXY": "example.com"}, None, None),
        ({"HTTPS_PROXY": "http://s.lan:1", "no_proxy": "other.com", "NO_PROXY": "*"}, "http://s.lan:1", None),
        ({"ALL_PROXY": "http://s.lan:1"}, None, None),
    ],
)
def test_environment_says_which_proxy(env: dict[str, str], secure: str | None, plain: str | None) -> None:
    """Each name in either case; the lower-case one outweighs, even empty."""
    found = [Proxies("", env).of(url) for url in (VENDOR, PLAIN)]
    assert [proxy and proxy.url for proxy in found] == [secure, plain]


def test_configured_proxy_takes_every_call() -> None:
    """Whatever the environment says."""
    proxies = Proxies("http://proxy.lan:3128", {"HTTPS_PROXY": "http://s.lan:1", "NO_PROXY": "*"})
    for url in (VENDOR, PLAIN, "http://127.0.0.1:9000/sms"):
        assert proxies.of(url) == Proxy("http://proxy.lan:3128")


def test_proxy_of_the_environment_that_cannot_be_spoken_to_is_told_by_its_variable() -> None:
    """Only to a call that it would take."""
    proxies = Proxies("", {"https_proxy": "socks5://s3cr3t@proxy.lan:1080", "no_proxy": "fine.example"})
    assert proxies.of("https://fine.example/") is None
    with pytest.raises(UnfitError, match="through HTTPS_PROXY, which is a proxy that is spoken to by socks5") as raised:
        proxies.of(VENDOR)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("*", "sms.example.com", True),
        ("a.com,*", "sms.example.com", True),
        ("example.com", "example.com", True),
        ("example.com", "sms.example.com", True),
        ("example.com", "badexample.com", False),
        ("example.com", "example.com.evil.net", False),
        (".example.com", "sms.example.com", True),
        ("*.example.com", "sms.example.com", True),
        ("EXAMPLE.com", "SMS.Example.COM", True),
        ("example.com", "sms.example.com.", True),
        ("a.com, example.com", "example.com", True),
        ("a.com example.com", "example.com", True),
        ("example.com:443", "example.com", True),
        ("example.com:8443", "example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.7/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", True),
        ("10.1.2.3:80", "10.1.2.3", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8:0::1", True),
        ("[2001:db8::1]:443", "2001:db8::1", True),
        ("[2001:db8::1]:80", "2001:db8::1", False),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("10.0.0.0/8", "2001:db8::1", False),
        ("localhost", "127.0.0.1", False),
        ("", "example.com", False),
        (" , ,", "example.com", False),
        (".", "example.com", False),
        ("com", "example.com", True),
        ("0.0.0.0/0", "example.com", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(no_proxy: str, host: str, exempt: bool) -> None:
    assert is_exempt(host, 443, no_proxy) == exempt
