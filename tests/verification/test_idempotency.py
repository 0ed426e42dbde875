"""Has this very request been answered before? Where the claim and the answer are on nodes of their own."""

import asyncio

from clusters import resp, told_nodes
from stores import a_store

from sidecar.secret import Secret
from sidecar.store.cluster import SLOTS, slot_of
from sidecar.verification.idempotency import Idempotency


async def test_an_answer_that_comes_between_is_given_again() -> None:
    """The first request ends after the answer was looked for and before the claim is made: nothing is done twice."""
    async with told_nodes(2) as nodes, a_store(f"redis+cluster://{nodes[0].place}") as store:
        idempotency = Idempotency(store, Secret("secret-secret-secret-secret-secret", [], lambda size: b"x" * size))
        answered = store.names.answered("x")
        at = int(slot_of(answered) >= SLOTS // 2)
        number = next(n for n in range(99) if (slot_of(idempotency.key("r", f"i{n}", "k")) >= SLOTS // 2) != bool(at))
        claim, has_looked = idempotency.key("r", f"i{number}", "k"), asyncio.Event()

        def outbox(words: list[bytes]) -> bytes:
            if words[0] != b"GET":
                return b"+OK\r\n"
            reply = resp(b"the answer" if has_looked.is_set() else None)
            has_looked.set()
            return reply

        async def recipients(words: list[bytes]) -> bytes:
            if words[0] == b"SET" and words[1] == claim.encode():
                await has_looked.wait()
            return b"+OK\r\n"

        nodes[at].answer, nodes[1 - at].answer = outbox, recipients
        assert await store.why_not() == ""
        assert await idempotency.claim(claim) == b"the answer"
        assert [b"DEL", claim.encode()] in nodes[1 - at].asked
