"""What a client tells a backend beside its target, and what it uploads, over real sockets."""

import io
import random

import aiohttp
import pytest
from fakes import RawClient
from telling import CONFIG, VERIFY, Sidecar, Start

REST = """
[[routes]]
match = "POST /wp-json/myapp/v1/register"
action = "verify"
to = "form:phone"
code = "form:code"
"""
PROFILE = """
[[routes]]
match = "PUT /profile"
action = "deny"
"""
NO_OVERRIDE = CONFIG.replace("[upstream]", "[upstream]\nmethod_override = false")


async def refused(sidecar: Sidecar, *head: bytes, body: bytes = b"{}") -> int:
    """Send one request, and hold that nothing of it reaches upstream."""
    async with RawClient(sidecar.port) as client:
        lines = [*head, b"Host: a", b"Content-Length: %d" % len(body), b"", body]
        await client.send(b"\r\n".join(lines))
        status = (await client.answer()).status
    assert not sidecar.upstream.requests
    return status


@pytest.mark.parametrize(
    "head",
    [
        (b"POST /x/register HTTP/1.1", b"SCRIPT_NAME: /x"),
        (b"POST /x/register HTTP/1.1", b"Daphne-Root-Path: %2Fx"),
        (b"POST / HTTP/1.1", b"X.Original.URL: register"),
        (b"POST / HTTP/1.1", b"x-invoke-path: /register"),
        (b"POST /register\xa0 HTTP/1.1", b"Accept: */*"),
        (b"POST /register\xe3\x80\x80?x HTTP/1.1", b"Accept: */*"),
        (b"POST /any/page?s=/register HTTP/1.1", b"Accept: */*"),
    ],
)
async def test_no_other_name_of_a_guarded_path_passes(start: Start, head: tuple[bytes, ...]) -> None:
    sidecar = await start(VERIFY)
    assert await refused(sidecar, *head) == 400  # guarded: no recipient in this JSON
    async with RawClient(sidecar.port) as client:  # and plain requests pass beside it
        await client.send(b"POST /other HTTP/1.1\r\nHost: a\r\nReferer: http://a/register\r\nContent-Length: 0\r\n\r\n")
        assert (await client.answer()).status == 200


async def test_a_path_in_a_form_is_guarded(start: Start) -> None:
    """WordPress takes `rest_route` from a form, at whatever address."""
    sidecar = await start(REST)
    hidden = {"rest_route": "/myapp/v1/register", "phone": "13900000001"}
    for data in (hidden, aiohttp.FormData(hidden, default_to_multipart=True)):
        assert (await sidecar.ask("POST", "/any/page", data=data)).status in {400, 401}
    assert not sidecar.upstream.requests
    assert (await sidecar.ask("POST", "/any/page", data={"comment": "/a", "rest": "/myapp/v1/register"})).status == 200
    large = await sidecar.ask("POST", "/any/page", data={"a": "b" * 100_000})
    assert (large.status, "max_guarded_body" in large.json["detail"]) == (413, True)


def upload(size: int, name: str = "photo") -> aiohttp.FormData:
    data = aiohttp.FormData({"title": "=? and name*="})
    data.add_field(name, random.Random(7).randbytes(size), filename="照片.png", content_type="image/png")
    return data


async def test_an_honest_upload_passes_beside_a_guarded_method(start: Start) -> None:
    """Up to max_guarded_body; a larger one is told what would let it through."""
    sidecar = await start(PROFILE)
    assert (await sidecar.ask("POST", "/profile", data=upload(60_000))).status == 200
    assert b"=? and name*=" in sidecar.upstream.requests[-1].content
    large = await sidecar.ask("POST", "/profile", data=upload(200_000))
    assert (large.status, large.code) == (413, "body_too_large")
    assert "method_override = false" in large.json["detail"]
    assert (await sidecar.ask("POST", "/profile", data=upload(10, name="_method"))).code == "route_denied"
    assert len(sidecar.upstream.requests) == 1


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
async def test_a_file_streams_beside_a_guarded_method(start: Start, kind: str) -> None:
    """It is no form, so it names no method, whatever its size."""
    sidecar = await start(PROFILE)
    content = b"_method=PUT&" + random.Random(8).randbytes(200_000)
    reply = await sidecar.ask("POST", "/profile", data=content, headers={"Content-Type": kind})
    assert reply.status == 200
    assert sidecar.upstream.requests[-1].content == content


@pytest.mark.parametrize("named", ["Content-Type", "content_type", "close, Content-Type"])
async def test_a_type_that_upstream_does_not_get_is_none(start: Start, named: str) -> None:
    """Nobody decides by a field that Connection takes away: Rack reads a body without a type as a form."""
    sidecar = await start(PROFILE)
    fields = {"Content-Type": "image/png", "Connection": named}
    assert (await sidecar.ask("POST", "/profile", data=b"_method=PUT&a=1", headers=fields)).code == "route_denied"
    assert not sidecar.upstream.requests


async def test_without_method_override_every_upload_streams(start: Start) -> None:
    """Whatever it holds, and whatever its fields and query say: upstream takes no method from there."""
    sidecar = await start(PROFILE, config=NO_OVERRIDE)
    named = {"X-HTTP-Method-Override": "PUT"}
    assert (
        await sidecar.ask("POST", "/profile?_method=PUT", data=upload(200_000, "_method"), headers=named)
    ).status == 200
    assert (await sidecar.ask("PUT", "/profile", data=b"a")).code == "route_denied"


@pytest.mark.parametrize(
    ("routes", "target"),
    [
        (VERIFY, "/index.php/apps/files/upload"),
        (VERIFY, "/index.php?route=/import"),
        (REST, "/wp-json/wp/v2/media"),
        (REST, "/any/page"),
    ],
)
async def test_a_large_upload_streams_through_a_front_controller(start: Start, routes: str, target: str) -> None:
    """Its parts are looked at on their way, and none names a path."""
    sidecar = await start(routes)
    content = random.Random(9).randbytes(3_000_000)
    for _ in range(2):  # by a new connection to upstream, and by a pooled one
        data = aiohttp.FormData({"title": "=? /x", "rest_base": "/myapp/v1/register"})
        data.add_field("file", io.BytesIO(content), filename="照片.png", content_type="image/png")
        data.add_field("last", "1")
        assert (await sidecar.ask("POST", target, data=data)).status == 200
        assert content in sidecar.upstream.requests[-1].content
        assert sidecar.upstream.requests[-1].content.endswith(b"--\r\n")


@pytest.mark.parametrize("name", ["rest_route", " rest.route", "REST_ROUTE"])
async def test_no_large_upload_names_a_path(start: Start, name: str) -> None:
    """Upstream does not get the part that names it, wherever it stands; the client is told."""
    sidecar = await start(REST)
    for size in (100_000, 3_000_000):
        for at_end in (True, False):
            data = aiohttp.FormData()
            data.add_field("file", io.BytesIO(b"a" * size), filename="a.png")
            data.add_field(name if at_end else "x", "/myapp/v1/register", content_type="text/plain")
            data.add_field("x" if at_end else name, "b" * 500, content_type="text/plain")
            reply = await sidecar.ask("POST", "/any/page", data=data)
            assert (reply.status, reply.code) == (413, "body_too_large")
            assert "max_guarded_body" in reply.json["detail"]
    assert all(name.encode() not in request.content for request in sidecar.upstream.requests)
