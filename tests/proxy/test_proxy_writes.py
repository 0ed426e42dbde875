"""When do octets leave? In order, and together."""

import asyncio

from sidecar.proxy.writes import Writes


class Recorder(asyncio.Transport):
    """A transport that keeps what is written to it, beside what is written to others."""

    def __init__(self, written: list[tuple[str, bytes]], name: str) -> None:
        super().__init__()
        self._written = written
        self._name = name
        self.is_gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append((self._name, bytes(data)))

    def is_closing(self) -> bool:
        return self.is_gone


async def turn() -> None:
    """Wait until what is to be called soon was called."""
    await asyncio.sleep(0)


async def test_what_one_turn_puts_is_written_at_its_end_in_order() -> None:
    written: list[tuple[str, bytes]] = []
    one, two = Recorder(written, "one"), Recorder(written, "two")
    writes = Writes()
    for transport, octets in ((one, b"a"), (two, b"b"), (one, b"c")):
        writes.put(transport, octets)
    assert not written
    await turn()
    assert written == [("one", b"a"), ("two", b"b"), ("one", b"c")]
    writes.put(two, b"d")
    await turn()
    assert written[3:] == [("two", b"d")]


async def test_a_flush_writes_now_and_once() -> None:
    written: list[tuple[str, bytes]] = []
    one = Recorder(written, "one")
    writes = Writes()
    writes.put(one, b"a")
    writes.flush()
    assert written == [("one", b"a")]
    writes.put(one, b"b")
    await turn()
    assert written == [("one", b"a"), ("one", b"b")]


async def test_nothing_is_written_to_a_transport_that_closes() -> None:
    written: list[tuple[str, bytes]] = []
    gone, other = Recorder(written, "gone"), Recorder(written, "other")
    writes = Writes()
    writes.put(gone, b"a")
    writes.put(other, b"b")
    gone.is_gone = True
    await turn()
    assert written == [("other", b"b")]


class Broken(Recorder):
    """As uvloop's whose handle has been closed: it says that it is open, and raises."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


async def test_a_transport_that_cannot_be_written_to_takes_nobody_elses_octets_with_it() -> None:
    """Those put before and after it are written, in their order, and whoever flushes hears of nothing."""
    written: list[tuple[str, bytes]] = []
    one, two = Recorder(written, "one"), Recorder(written, "two")
    writes = Writes()
    for transport, octets in ((one, b"a"), (Broken(written, "broken"), b"b"), (two, b"c"), (one, b"d")):
        writes.put(transport, octets)
    writes.flush()
    assert written == [("one", b"a"), ("two", b"c"), ("one", b"d")]
