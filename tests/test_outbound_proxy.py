"""sidecar/outbound.py through a forward proxy: what leaves, what surely never did. Real sockets, TLS and all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import Authority, serving
from cryptography import x509
from fakes import FakeUpstream
from forward_proxy import BREAK, SILENCE, ForwardProxy, forward_proxy
from vendors import closed_port

from sidecar.config.proxies import Proxies
from sidecar.outbound import HttpReply, HttpRequest, NeverSentError, NoAnswerError, call, open_session

NAME = "sms.vendor.example"  # which this machine cannot resolve
REQUEST = (("Content-Type", "text/plain"), ("Authorization", "of-the-vendor"))


async def ask(
    url: str, proxy: str, *, ca: str = "", env: dict[str, str] | None = None, timeout_s: float = 5.0, times: int = 1
) -> list[HttpReply]:
    async with open_session(Proxies(proxy, env or {}), ca) as session:
        return [await call(session, HttpRequest("POST", url, REQUEST, b"code 246810"), timeout_s) for _ in range(times)]


@asynccontextmanager
async def secure_vendor(folder: Path) -> AsyncIterator[tuple[FakeUpstream, str]]:
    """Yield a vendor that is NAME by a certificate of the test's own authority, and that authority."""
    authority = Authority(folder)
    tls = serving(authority.issue("vendor", x509.DNSName(NAME)))
    async with FakeUpstream(tls=tls) as vendor:
        yield vendor, authority.cert


async def test_https_goes_through_a_tunnel(tmp_path: Path) -> None:
    """The proxy resolves the name, and sees neither path nor code; the vendor sees nothing of the proxy."""
    async with secure_vendor(tmp_path) as (vendor, ca), forward_proxy(vendor.port) as proxy:
        [first, second] = await ask(f"https://{NAME}/send?x=1", proxy.url, ca=ca, times=2)
        assert (first.status, second.body) == (200, b"ok")
        assert proxy.requests == [f"CONNECT {NAME}:443 HTTP/1.1".encode()], "one tunnel, used twice"
        assert b"246810" not in proxy.asked[0].raw
        assert not proxy.asked[0].values(b"authorization")
        for request in vendor.requests:
            assert request.start_line == b"POST /send?x=1 HTTP/1.1"
            assert request.value(b"authorization") == b"of-the-vendor"
            assert not request.values(b"proxy-authorization")


@pytest.mark.parametrize("says", [b"1.1 204 No Content\r\nConnection: close", b"1.0 200 Ok\r\nContent-Length: 9"])
async def test_fields_of_the_proxys_yes_mean_nothing(tmp_path: Path, says: bytes) -> None:
    """RFC 9110 section 9.3.6: the tunnel begins behind its head, and is the vendor's alone."""
    async with secure_vendor(tmp_path) as (vendor, ca), forward_proxy(vendor.port) as proxy:
        proxy.greets = b"HTTP/%b\r\n\r\n" % says
        assert len(await ask(f"https://{NAME}/", proxy.url, ca=ca, times=2)) == 2
        assert len(proxy.asked) == 1


async def test_http_goes_in_absolute_form() -> None:
    async with FakeUpstream() as vendor, forward_proxy(vendor.port) as proxy:
        [reply] = await ask(f"http://{NAME}/send?x=%7e", proxy.url)
        assert reply.status == 200
        assert proxy.requests == [f"POST http://{NAME}/send?x=%7e HTTP/1.1".encode()]


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_proxy_is_told_its_user_and_the_vendor_is_not(tmp_path: Path, scheme: str) -> None:
    """RFC 7617, the octets of the URL decoded: those of UTF-8 too."""
    async with secure_vendor(tmp_path) as (secure, ca), FakeUpstream() as plain:
        async with forward_proxy((secure if scheme == "https" else plain).port) as proxy:
            await ask(f"{scheme}://{NAME}/", f"http://ann:p%C3%A4%3A%2F@127.0.0.1:{proxy.port}", ca=ca)
            assert proxy.asked[0].value(b"proxy-authorization") == b"Basic YW5uOnDDpDov"
        assert not secure.requests or not secure.requests[0].values(b"proxy-authorization")


async def test_environment_is_honoured_and_what_it_exempts_goes_straight(tmp_path: Path) -> None:
    async with (
        secure_vendor(tmp_path) as (secure, ca),
        FakeUpstream() as plain,
        forward_proxy(secure.port) as tunnel,
        forward_proxy(plain.port) as other,
    ):
        env = {"HTTPS_PROXY": tunnel.url, "http_proxy": other.url, "NO_PROXY": "127.0.0.0/8"}
        await ask(f"https://{NAME}/", "", ca=ca, env=env)
        await ask(f"http://{NAME}/", "", env=env)
        await ask(plain.url, "", env=env)
        assert (len(tunnel.asked), len(other.asked), len(plain.requests)) == (1, 1, 2)


async def test_only_the_named_authority_is_believed(tmp_path: Path) -> None:
    """Without it, and with another one, nothing is sent."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").cert
    async with secure_vendor(tmp_path) as (vendor, ca), forward_proxy(vendor.port) as proxy:
        for wrong in ("", other):
            with pytest.raises(NeverSentError):
                await ask(f"https://{NAME}/", proxy.url, ca=wrong)
        with pytest.raises(NeverSentError):
            await ask("https://another.example/", proxy.url, ca=ca)
        assert not vendor.requests
        assert (await ask(f"https://{NAME}/", proxy.url, ca=ca))[0].status == 200


# Surely never sent…


@pytest.mark.parametrize("status", [301, 400, 403, 407, 429, 500, 502, 503, 504])
async def test_tunnel_that_is_refused_sent_nothing(status: int) -> None:
    async with forward_proxy() as proxy:
        proxy.says = f"HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno".encode()
        with pytest.raises(NeverSentError, match=f"proxy_{status}"):
            await ask(f"https://{NAME}/", proxy.url)


@pytest.mark.parametrize("says", [BREAK, SILENCE, b"220 mail.example ESMTP\r\n\r\n", b"HTTP/1.1 200 Ok\r\n\r\nno TLS"])
async def test_tunnel_that_is_not_opened_sent_nothing(says: bytes) -> None:
    async with forward_proxy() as proxy:
        proxy.says = says
        with pytest.raises(NeverSentError):
            await ask(f"https://{NAME}/", proxy.url, timeout_s=0.5)
        assert len(proxy.asked) == 1


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_proxy_that_is_not_there_sent_nothing(scheme: str) -> None:
    with pytest.raises(NeverSentError):
        await ask(f"{scheme}://{NAME}/", closed_port())


async def test_proxy_that_wants_another_user_sent_nothing() -> None:
    """Without a tunnel its 407 stands where the vendor's answer would."""
    async with forward_proxy() as proxy:
        proxy.says = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
        with pytest.raises(NeverSentError, match="proxy_407"):
            await ask(f"http://{NAME}/", proxy.url)


# May have been taken…


async def test_proxy_that_breaks_off_after_the_request_leaves_it_open() -> None:
    async with forward_proxy() as proxy:
        for says in (BREAK, SILENCE):
            proxy.says = says
            with pytest.raises(NoAnswerError):
                await ask(f"http://{NAME}/", proxy.url, timeout_s=0.5)


async def test_vendor_that_is_silent_behind_the_tunnel_leaves_it_open(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def silent(taken: object, message: object) -> None:
        await asyncio.Event().wait()

    tls = serving(authority.issue("vendor", x509.DNSName(NAME)))
    async with FakeUpstream(answer=silent, tls=tls) as vendor, forward_proxy(vendor.port) as proxy:
        with pytest.raises(NoAnswerError):
            await ask(f"https://{NAME}/", proxy.url, ca=authority.cert, timeout_s=1.0)
        assert len(vendor.requests) == 1


@pytest.mark.parametrize("says", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", BREAK])
async def test_password_of_the_proxy_stands_in_no_error(says: bytes) -> None:
    async def told(proxy: ForwardProxy) -> BaseException:
        try:
            await ask(f"https://{NAME}/", f"http://ann:s3cr3t@127.0.0.1:{proxy.port}")
        except NeverSentError as error:
            return error
        raise AssertionError("expected NeverSentError")

    async with forward_proxy() as proxy:
        proxy.says = says
        error: BaseException | None = await told(proxy)
        while error is not None:
            assert "s3cr3t" not in repr(error) + str(error)
            assert "YW5uOnMzY3IzdA" not in repr(error) + str(error), "as Basic has it"
            error = error.__cause__
