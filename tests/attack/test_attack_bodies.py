"""The attacker who sends little that costs much, or never ends. Over real sockets.

Costly heads, bodies and tokens by the thousand are in tests/story/test_story_freeze.py, slow readers in
tests/proxy/test_proxy_slow_clients.py.
"""

import gzip
import json
import zlib

import pytest
from fakes import RawClient
from telling import CONFIG, E164, PHONE, Start


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "x-gzip"])
async def test_a_coded_body_is_unpacked_by_nobody(start: Start, coding: str) -> None:
    """A thousandfold of what was sent: refused before it is read, and upstream sees nothing of it."""
    bomb = gzip.compress(json.dumps({"phone": PHONE, "pad": "0" * (32 << 20)}).encode())
    body = zlib.compress(b"{}") if coding == "deflate" else bomb
    sidecar = await start()
    for path in ("/send", "/register"):
        headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
        refused = await sidecar.ask("POST", path, data=body, headers=headers)
        assert (refused.status, refused.code) == (400, "malformed_request")
    assert not sidecar.upstream.requests


async def test_a_body_that_does_not_end_holds_up_nobody(start: Start) -> None:
    """Fifty clients that each send half of one: the next request is served, and nothing of theirs reaches upstream."""
    sidecar = await start()
    clients = [RawClient(sidecar.port) for _ in range(50)]
    try:
        for n, client in enumerate(clients):
            await client.__aenter__()
            framing = b"Content-Length: 1000" if n % 2 else b"Transfer-Encoding: chunked"
            begun = b'{"phone": "139' if n % 2 else b'e\r\n{"phone": "139\r\n'
            await client.send(
                b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
                framing,
                b"\r\n\r\n",
                begun,
            )
        assert (await sidecar.send()).status == 202
        assert (await sidecar.register(await sidecar.vendor.code(E164))).status == 200
        assert len(sidecar.upstream.requests) == 1
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)


async def test_no_member_of_a_body_is_larger_than_what_it_is_read_into(start: Start) -> None:
    """Sixty thousand characters as a number, a code, a token, a key, a language: refused, or not looked at."""
    sidecar = await start(config=CONFIG.replace("[server]", '[server]\nmax_guarded_body = "256KiB"'))
    large = "1" * 60_000
    assert (await sidecar.send(large)).code == "invalid_recipient"
    assert (await sidecar.register(large)).code == "code_mismatch"
    assert (await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": large})).code == "captcha_failed"
    for name, status in (("Idempotency-Key", 400), ("X-Verification-Token", 410), ("Accept-Language", 202)):
        reply = await (
            sidecar.register(None, headers={name: large}) if "Token" in name else sidecar.send(headers={name: large})
        )
        assert reply.status in {status, 401, 422}, (name, reply.body)
    assert not sidecar.upstream.requests
