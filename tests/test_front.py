"""sidecar/front.py: what is remembered of a look-up decides as a look-up does, and is not much; what is under way."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fakes import DEADLINE_S, OK, Message, Taken, read_content
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import CIMultiDict
from telling import Start

from sidecar.config.model import Route
from sidecar.errors import Refusal
from sidecar.proxy.fields import Rules
from sidecar.proxy.messages import Request, read_fields, read_request
from sidecar.routes import Found, Routes
from sidecar.worker import _leave

ROUTES = [
    Route(match="POST /api/sms/code", action="guard"),
    Route(match="PUT /api/put/{name}", action="deny"),
    Route(match="POST /wp-json/users/*", action="guard"),
    Route(match="DELETE /u/*", action="deny"),
    Route(match="GET /g", action="deny"),
    Route(match="* /wiki/x", action="deny"),
]
NAMES = st.sampled_from(
    b"Content-Type content_type Content.Type CONTENT-TYPE Content-Encoding content_encoding X-HTTP-Method-Override"
    b" X-Original-URL Accept X-Foo Referer X-Forwarded-Prefix X-Real-IP Forwarded X_Forwarded_Path Script_Name Cookie"
    b" X-Signature Connection X-Verified-Identity X-Request-Id TE Trailer Expect Upgrade".split()
)
VALUES = st.sampled_from(
    [
        *b"application/x-www-form-urlencoded application/json image/png gzip identity PUT DELETE x".split(),
        *b"/api/sms/code %2fapi/sms/code http://a/api/sms/code /g /u/1 \xff/g \\g content-type x-original-url".split(),
        *(b"", b"multipart/form-data; boundary=x", b"image/png; form", b"close, content_encoding", b"a" * 70),
    ]
)
TARGETS = st.sampled_from(
    b"/api/sms/code /other /api/put/1 /index.php /index.php?s=/g /other?_method=PUT /u/1 /U/1/ /g /G;x //g /%67"
    b" /wiki/index.php?title=x /x?rest_route=/users/1 /wp-json/users/1 /index.php/api/sms/code".split()
)
METHODS = st.sampled_from(b"GET POST PUT post HEAD Post DELETE OPTIONS".split())


def decided(found: Found) -> tuple[object, ...]:
    return found.route, found.needs_body_for_override, found.may_name_path, found.naming


def read(method: bytes, target: bytes, pairs: list[tuple[bytes, bytes]]) -> Request:
    try:
        fields = read_fields(b"Host: a\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in pairs))
        return read_request(b"%b %b HTTP/1.1" % (method, target), fields)
    except Refusal:
        assume(condition=False)
        raise


@pytest.mark.parametrize("override", [True, False])
@given(method=METHODS, target=TARGETS, pairs=st.lists(st.tuples(NAMES, VALUES), max_size=4), trusted=st.booleans())
def test_what_a_look_up_is_remembered_by_is_all_that_it_goes_by(
    *, override: bool, method: bytes, target: bytes, pairs: list[tuple[bytes, bytes]], trusted: bool
) -> None:
    """A POST's type and coding, of others nothing but the target: or it is looked up by all that upstream gets."""
    request, routes = read(method, target, pairs), Routes(ROUTES, method_override=override)
    kept = Rules("X-Verified-Identity").keep(request, trusted_peer=trusted)
    assume(not kept.may_name_another)
    types = kept.types if request.method.upper() == "POST" else ()
    seen = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in kept.lines)]
    remembered, whole = routes.find(request.method, target, types), routes.find(request.method, target, seen)
    assert decided(remembered) == decided(whole)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
@pytest.mark.parametrize("name", ["Content_Type", "Content.Type", "content!type", "Content-Type"])
async def test_only_a_type_under_its_own_name_lets_content_pass_unread(start: Start, name: str, kind: str) -> None:
    """To Rails a body has no type under another name, so it is a form, and its `_method` counts."""
    sidecar = await start('[[routes]]\nmatch = "PUT /account"\naction = "deny"\n')
    form, own = b"_method=PUT&phone=1", ["Content-Type"]
    for _ in range(2):  # looked up, and remembered
        reply = await sidecar.ask("POST", "/account", data=form, headers={name: kind}, skip_auto_headers=own)
        assert reply.status == (200 if name == "Content-Type" else 403)


async def test_a_long_method_is_not_remembered(start: Start) -> None:
    """Nor a long target: some thousand look-ups are kept, and none is larger than half a KiB."""
    sidecar = await start()
    sidecar.upstream.answer = OK
    kept = sidecar.app.front._kept_look_up
    before = kept.cache_info().currsize
    for method, path in (("M" * 600, "/"), ("GET", "/" + "x" * 600), ("M" * 300, "/" + "x" * 300)):
        assert (await sidecar.ask(method, path)).status == 200
    assert kept.cache_info().currsize == before
    assert (await sidecar.ask("M", "/")).status == 200
    assert kept.cache_info().currsize == before + 1


async def test_a_post_of_many_types_is_not_remembered(start: Start) -> None:
    """A hundred types without a word in them are some KiB all the same; two are what an honest one has."""
    sidecar = await start()
    sidecar.upstream.answer = OK
    kept = sidecar.app.front._kept_look_up
    before = kept.cache_info().currsize
    for count, remembered in ((100, 0), (3, 0), (2, 1)):
        types = CIMultiDict([("Content-Type", "")] * count)
        assert (await sidecar.ask("POST", f"/{count}", data=b"", headers=types)).status == 200
        assert kept.cache_info().currsize == before + remembered


async def test_a_field_that_names_another_path_is_looked_up_though_the_path_is_remembered(start: Start) -> None:
    """And the look-up of a POST is remembered, by its path and type."""
    sidecar = await start('[[routes]]\nmatch = "* /closed"\naction = "deny"\n')
    kept = sidecar.app.front._kept_look_up
    for method in ("GET", "POST"):
        before = kept.cache_info()
        for _ in range(2):
            assert (await sidecar.ask(method, "/open")).status == 200
        after = kept.cache_info()
        assert (after.currsize - before.currsize, after.hits - before.hits) == (1, 1)
        assert (await sidecar.ask(method, "/open", headers={"X-Original-URL": "/closed"})).status == 403


# What is under way…


@pytest.mark.parametrize(("method", "path"), [("GET", "/plain"), ("POST", "/guarded")])
async def test_a_replaced_configuration_is_taken_down_once_its_last_request_is_over(
    start: Start, method: str, path: str
) -> None:
    """No reload cuts off what it serves, and none is kept for ever: it has connections, to the store among others."""
    has_begun, may = asyncio.Event(), asyncio.Event()

    async def late(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        has_begun.set()
        await may.wait()
        await taken.write(OK)

    sidecar = await start('[[routes]]\nmatch = "POST /guarded"\naction = "guard"\n')
    assert (await sidecar.ask(method, path)).status == 200
    sidecar.upstream.answer = late
    under_way = asyncio.create_task(sidecar.ask(method, path))
    await has_begun.wait()
    taken_down, was_over = AsyncExitStack(), []
    taken_down.callback(lambda: was_over.append(may.is_set()))
    leaving = asyncio.create_task(_leave(sidecar.app, taken_down))
    await asyncio.wait([leaving], timeout=0.5)
    may.set()
    assert (await under_way).status == 200
    async with asyncio.timeout(DEADLINE_S):
        await leaving
    assert was_over == [True]
