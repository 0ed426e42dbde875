"""Who serves a connection: the short way and aiohttp on one socket, in order, and nobody for ever."""

import asyncio
import re

import pytest
from fakes import DEADLINE_S, OK, FakeUpstream, Message, RawClient, Taken, read_content
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxied import Passing, passing

GET = b"GET /%d HTTP/1.1\r\nHost: example.com\r\n\r\n"
HEAD = b"HEAD /%d HTTP/1.1\r\nHost: example.com\r\n\r\n"


async def _echo_target(taken: Taken, request: Message) -> None:
    await read_content(taken.reader, request)
    content = b"" if request.start_line.startswith(b"HEAD") else request.target
    await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.target), content))


async def test_pipelined_requests_of_both_ways_are_answered_in_order(sidecar: Passing, upstream: FakeUpstream) -> None:
    """Relayed, or handled by aiohttp's request and response: one at a time."""
    upstream.answer = _echo_target
    sidecar.handles = lambda request: request.method == "HEAD"
    async with sidecar.client() as client:
        kinds = [number % 3 == 1 for number in range(100)]
        await client.send(b"".join((HEAD if to_head else GET) % number for number, to_head in enumerate(kinds)))
        for number, to_head in enumerate(kinds):
            answer = await client.answer(to_head=to_head)
            assert answer.value(b"content-length") == b"%d" % len(b"/%d" % number)
            assert to_head or answer.content == b"/%d" % number
    assert sidecar.relayed == sum(not to_head for to_head in kinds)


async def test_what_is_pipelined_is_read_no_further_than_it_may_wait(sidecar: Passing, upstream: FakeUpstream) -> None:
    """And all of it is answered in the end."""
    go_on = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await go_on.wait()
        await taken.write(OK)

    upstream.answer = answer
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 8000)
    async with sidecar.client() as client:
        count, stalled = 0, False
        while count < 10_000 and not stalled:
            client.writer.write(request * 10)
            count += 10
            try:
                await asyncio.wait_for(client.writer.drain(), 0.5)
            except TimeoutError:
                stalled = True
        assert stalled
        go_on.set()
        for _ in range(count):
            assert (await client.answer()).content == b"ok"


async def test_what_is_malformed_behind_a_good_request_is_refused_after_its_answer(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    held = asyncio.Event()

    async def answer(taken: Taken, request: Message) -> None:
        await held.wait()
        await taken.write(OK)

    upstream.answer = answer
    async with sidecar.client() as client:
        await client.send(GET % 1)
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        await client.send(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        held.set()
        assert (await client.answer()).content == b"ok"
        assert (await client.answer()).status == 400
        assert await client.rest() == b""
    assert len(upstream.requests) == 1


async def test_a_slow_head_is_cut_off(upstream: FakeUpstream) -> None:
    async with passing(upstream.url, head_s=0.2) as sidecar, sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: exam")
        assert await client.rest() == b""
    assert upstream.requests == []


async def test_a_head_in_two_pieces_is_not_slow(upstream: FakeUpstream) -> None:
    async with passing(upstream.url, head_s=1.0) as sidecar, sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: exam")
        await client.send(b"ple.com\r\n\r\n")
        assert (await client.answer()).content == b"ok"
        ended = asyncio.ensure_future(client.rest())
        done, _ = await asyncio.wait([ended], timeout=1.5)
        assert not done, "the time for a head is over with it"
        ended.cancel()


async def test_a_client_that_takes_nothing_is_cut_off(upstream: FakeUpstream) -> None:
    """And its upstream connection with it."""

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            await taken.write(bytes(1 << 16))

    upstream.answer = answer
    async with passing(upstream.url, send_s=0.3) as sidecar, sidecar.client() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads too
        await client.send(GET % 1)
        await upstream.wait_for(lambda: len(upstream.requests) == 1)
        await upstream.wait_closed()


async def test_a_failure_before_the_answer_is_refused_once_and_the_next_request_passes(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    answers = iter([b"HTTP/1.1 what\r\n\r\n", OK])

    async def answer(taken: Taken, request: Message) -> None:
        await taken.write(next(answers))

    upstream.answer = answer
    async with sidecar.client() as client:
        assert (await client.ask()).status == 502
        assert await client.rest() == b""
    async with sidecar.client() as client:
        assert (await client.ask()).content == b"ok"
    assert len(sidecar.refusals) == 1


async def test_an_idle_connection_that_upstream_speaks_on_is_not_used_again(
    sidecar: Passing, upstream: FakeUpstream
) -> None:
    async with sidecar.client() as client:
        await client.ask()
        await upstream.taken[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        await upstream.wait_closed()
        assert (await client.ask()).content == b"ok"
    assert len(upstream.taken) == 2


TOKEN = st.text("abcdefgXYZ0189-_!~", min_size=1, max_size=12)
NAMES = TOKEN.filter(
    lambda name: (
        re.sub(r"[^a-z0-9]", "-", name.lower())
        not in {"host", "te", "via", "upgrade", "connection", "trailer", "expect"}
    )
)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
TARGETS = st.text("abc/.;%2F?=&~", max_size=20).map(lambda text: "/" + text)
CONTENTS = st.none() | st.binary(max_size=300)


@pytest.mark.usefixtures("engine")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
    target=TARGETS,
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=6),
    content=CONTENTS,
    chunked=st.booleans(),
)
def test_upstream_gets_the_clients_method_target_fields_and_content(
    method: str, target: str, fields: list[tuple[str, str]], content: bytes | None, chunked: bool
) -> None:
    """One well-formed message, whatever is asked: the recording upstream reads no other."""

    async def story() -> None:
        async with FakeUpstream() as upstream, passing(upstream.url) as sidecar, RawClient(sidecar.port) as client:
            lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in fields)]
            octets = b""
            if content is not None and chunked:
                lines.append("Transfer-Encoding: chunked")
                octets = b"".join(b"1\r\n%c\r\n" % octet for octet in content) + b"0\r\n\r\n"
            elif content is not None:
                lines.append(f"Content-Length: {len(content)}")
                octets = content
            await client.send("\r\n".join([*lines, "", ""]).encode("latin-1"), octets)
            assert (await client.answer()).status == 200
            assert (await client.ask()).status == 200, "the next request is read from where this one ended"
            got, _ = upstream.requests
            assert got.start_line == f"{method} {target} HTTP/1.1".encode("latin-1")
            assert got.content == (content or b"")
            names = {name.encode("latin-1") for name, _ in fields}
            asked = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
            assert [pair for pair in got.fields if pair[0] in names] == asked

    async def with_deadline() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await story()

    asyncio.run(with_deadline())
