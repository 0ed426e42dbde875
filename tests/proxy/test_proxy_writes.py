"""sidecar/proxy/writes.py: what one turn of the loop has put leaves at its end, whatever becomes of a transport."""

import asyncio

from sidecar.proxy.writes import Writes


class Written(asyncio.Transport):
    """Keeps what is written, or, as uvloop's whose handle has been closed, says that it is open and raises."""

    def __init__(self, *, is_broken: bool = False) -> None:
        super().__init__()
        self.octets = b""
        self._is_broken = is_broken

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_broken:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        self.octets += data


async def test_a_transport_that_cannot_be_written_to_takes_nobody_elses_octets_with_it() -> None:
    """Those put before and after it are written, in their order, and whoever has them written hears of nothing."""
    writes, before, after = Writes(), Written(), Written()
    for transport, octets in ((before, b"1"), (Written(is_broken=True), b"2"), (after, b"3"), (before, b"4")):
        writes.put(transport, octets)
    writes.flush()
    assert (before.octets, after.octets) == (b"14", b"3")
