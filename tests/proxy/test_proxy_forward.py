"""What does upstream get, and what the client? Octets, over real sockets, a test per rule."""

from fakes import FakeUpstream
from proxied import Passing


async def test_a_plain_request_and_its_answer_pass(sidecar: Passing, upstream: FakeUpstream) -> None:
    async with sidecar.client() as client:
        answer = await client.ask("GET", "/a")
    assert (answer.status, answer.content) == (200, b"ok")
    assert upstream.requests[0].target == b"/a"
