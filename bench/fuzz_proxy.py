"""Fuzz heads and chunks, coverage-guided: `make fuzz-proxy`. Sockets are replaced by lists of octets, nothing else is.

The first octet of an input chooses: what a client sends (even) or what upstream answers (odd). The second says where
the input is cut into two reads. Held: whatever upstream gets is whole well-formed messages, framed one way; whatever
the client gets is a whole well-formed answer, or one that is visibly broken. Nothing raises.
"""

import asyncio
import logging
import re
import sys

import atheris

with atheris.instrument_imports(include=["sidecar.proxy", "sidecar.errors"]):
    from sidecar.proxy import client as proxy_client
    from sidecar.proxy import listener
    from sidecar.proxy.forward import Forwarder
    from sidecar.proxy.lean import _Upstream

import structlog
from aiohttp import web

from sidecar.config.model import Upstream
from sidecar.errors import Refusal

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST = re.compile(rb"%b [^\x00-\x20\x7f#]+ HTTP/1\.1" % TOKEN)
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n\0]*")
FIELD = re.compile(rb"(%b): ([^\r\n\0]*)" % TOKEN)
CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})\r\n")
LAX_FIELD = re.compile(rb"([^\r\n\0:]+): ([^\r\n\0]*)")  # upstream's are passed on as they came


def read_one(octets: bytes, start: re.Pattern[bytes], field: re.Pattern[bytes], *, until_close: bool) -> bytes | None:
    """Read one message strictly and return what follows it; None if it is not whole. Asserts that it is well-formed."""
    head, end, rest = octets.partition(b"\r\n\r\n")
    if not end:
        return None
    line, *lines = head.split(b"\r\n")
    found = start.fullmatch(line)
    assert found, line
    pairs = []
    for each in lines:
        pair = field.fullmatch(each)
        assert pair, each
        pairs.append((pair[1].lower(), pair[2]))
    lengths = [value for key, value in pairs if key == b"content-length"]
    codings = [value for key, value in pairs if key == b"transfer-encoding"]
    assert len(lengths) + len(codings) <= 1, pairs
    status = int(found[1]) if start is ANSWER else 0
    if 100 <= status < 200:
        return read_one(rest, start, field, until_close=until_close)
    if status in {204, 304}:
        return rest
    if codings:
        assert codings == [b"chunked"]
        while True:
            size = CHUNK.match(rest)
            if size is None:
                assert len(rest) < 32, rest
                return None
            count = int(size[1], 16)
            chunk, rest = rest[size.end() : size.end() + count + 2], rest[size.end() + count + 2 :]
            if len(chunk) < count + 2:
                return None
            assert chunk.endswith(b"\r\n")
            if not count:
                return rest
    if lengths:
        assert lengths[0].isdigit()
        count = int(lengths[0])
        return rest[count:] if len(rest) >= count else None
    return None if until_close else rest


class Line(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self, on_write=None):
        super().__init__()
        self.writes, self.closed, self.aborted, self.on_write = [], False, False, on_write
        self.protocol = None

    def write(self, data):
        if not self.closed:
            self.writes.append(bytes(data))
            if self.on_write:
                self.on_write(bytes(data))

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def close(self):
        if not self.closed:
            self.closed = True
            if self.protocol is not None:
                asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self):
        self.aborted = True
        self.close()

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name, default=None):
        return ("203.0.113.9", 1) if name == "peername" else default

    def set_protocol(self, protocol):
        self.protocol = protocol


def halves(data: bytes) -> list[bytes]:
    at = data[0] % (len(data) or 1)
    return [piece for piece in (data[1 : 1 + at], data[1 + at :]) if piece]


async def from_client(data: bytes) -> None:
    got: list[bytes] = []
    loop = asyncio.get_running_loop()
    forwarder = Forwarder(Upstream(url="http://127.0.0.1:1"), lambda seconds: None)

    async def connect(factory):
        protocol = factory()
        line = Line(lambda octets: (got.append(octets), loop.call_soon(answer, protocol)))
        line.protocol = protocol
        protocol.connection_made(line)
        return line, protocol

    def answer(protocol):
        if protocol.transport is not None:
            protocol.data_received(OK)

    forwarder.pool._connect = connect

    def named(raw):
        return {
            "client": proxy_client.name("203.0.113.9", raw, (), "http"),
            "request_id": "x",
            "identity_header": "X-Verified-Identity",
        }

    def plain(message, payload, connection):
        try:
            owner, last = connection.last
            if owner is None or not last.is_for(message):
                own = named(message.raw_headers)
                last = forwarder.rewritten(message, own["client"], own["identity_header"])
                connection.last = forwarder, last
            return forwarder.exchange(
                message, payload, rewritten=last, request_id="x", route=None, ended=lambda exchange, counts: None
            )
        except Refusal:
            return None

    async def handle(request):
        try:
            head, octets = forwarder._written(
                request.method, request.raw_path, request.version, request.raw_headers, **named(request.raw_headers)
            )
        except Refusal as refusal:
            response = web.Response(status=refusal.status)
            response.force_close()
            return response
        if head.is_websocket:
            return web.Response(status=400)
        content = await request.content.read()
        if head.chunked:
            octets += (b"%x\r\n%b\r\n" % (len(content), content) if content else b"") + b"0\r\n\r\n"
        else:
            octets += content
        got.append(octets)
        return web.Response(text="ok")

    handler = listener.Server(handle, plain)()
    line = Line()
    line.protocol = handler
    handler.connection_made(line)
    await asyncio.sleep(0)
    for piece in halves(data):
        if not line.closed:
            handler.data_received(piece)
        for _ in range(4):
            await asyncio.sleep(0)
    for _ in range(12):
        await asyncio.sleep(0)
    for octets in got:
        assert read_one(octets, REQUEST, FIELD, until_close=False) == b"", octets
        fields = octets.partition(b"\r\n\r\n")[0].lower().replace(b"_", b"-").split(b"\r\n")[1:]
        assert not any(line.startswith(b"x-verified-identity:") for line in fields), octets
    if handler._task_handler is not None:
        handler._task_handler.cancel()
    line.close()
    for _ in range(3):
        await asyncio.sleep(0)
    await forwarder.close()


class Asking:
    """The client's end of an exchange."""

    writing_paused = False

    def __init__(self):
        self.octets, self.end, self.until_close = b"", "", False

    def answer(self, octets):
        assert not self.end
        self.octets += octets

    def answered(self, exchange, *, stays_open):
        assert not self.end
        self.end, self.until_close = "whole", exchange.head.until_close

    def refused(self, exchange, refusal):
        assert not self.end
        self.end = "refused"

    def broken(self, exchange, *, until_close):
        assert not self.end
        self.end = "broken"


async def from_upstream(data: bytes) -> None:
    forwarder = Forwarder(Upstream(url="http://127.0.0.1:1"), lambda seconds: None)
    line = Line()

    async def connect(factory):
        line.protocol = factory()
        line.protocol.connection_made(line)
        return line, line.protocol

    forwarder.pool._connect = connect
    from aiohttp.http import HttpVersion10, HttpVersion11

    from sidecar.proxy.lean import Exchange

    asking = Asking()
    exchange = Exchange(
        method="POST", version=HttpVersion10 if data[0] & 128 else HttpVersion11, keep_alive=True, octets=b"",
        may_repeat=False, pool=forwarder.pool, ended=lambda exchange, counts: None, request_id="x", client_ip="x",
        route=None, started=0.0,
    )  # fmt: skip
    exchange.start(asking)
    for _ in range(4):
        await asyncio.sleep(0)
    upstream = line.protocol
    assert isinstance(upstream, _Upstream)
    for piece in halves(data):
        if not line.closed:
            upstream.data_received(piece)
    await asyncio.sleep(0)
    line.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert asking.end, data
    if asking.end == "whole":
        rest = read_one(asking.octets, ANSWER, LAX_FIELD, until_close=asking.until_close)
        assert rest == (None if asking.until_close else b""), asking.octets
    elif asking.end == "broken":
        rest = read_one(asking.octets, ANSWER, LAX_FIELD, until_close=True)
        assert rest is None, asking.octets
    await forwarder.close()


def once(data: bytes) -> None:
    if len(data) < 3:
        return
    story = from_upstream if data[0] & 1 else from_client
    LOOP.run_until_complete(story(data[1:]))


LOOP = asyncio.new_event_loop()
LOOP.set_exception_handler(
    lambda loop, context: (_ for _ in ()).throw(context.get("exception") or RuntimeError(context))
)
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
logging.disable(logging.CRITICAL)
SEEDS = [
    b"\x00\x09GET /a?b HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n",
    b"\x00\x30POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00\x30POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    b"\x00\x30GET http://b/ HTTP/1.0\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nx_verified-identity: f\r\n\r\n",
    b"\x00\x30OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nUpgrade: h2c\r\n\r\n",
    b"\x01\x30HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"\x01\x30HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"\x01\xb0HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nabc",
    b"\x01\x30HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nConnection: a\r\nA: b\r\n\r\n",
    b"\x01\x30HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nabc",
]

if __name__ == "__main__":
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    for number, seed in enumerate(SEEDS):
        once(seed)
        if folders:
            with open(f"{folders[0]}/seed{number}", "wb") as file:
                file.write(seed)
    atheris.Setup(sys.argv, once)
    atheris.Fuzz()
