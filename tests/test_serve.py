"""sidecar/serve.py: the process as its operator has it. Signals, reloads, listeners, exit codes."""

import asyncio
import datetime as dt
import json
import os
import signal
import socket
import ssl
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from awake import awake
from children import CONFIG, Child, Pipe, Run
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fakes import OK, Message, RawClient, Taken, free_port, read_content
from stores import a_store

from sidecar.proxy.proxy_protocol import SIGNATURE

DENY = '[[routes]]\nmatch = "GET /closed"\naction = "deny"\n'
VERIFY = '[[routes]]\nmatch = "POST /register"\naction = "verify"\nto = "json:phone"\ncode = "json:code"\n'
# How often a configuration's key is read before it is found good: is it a file that may be read, and the certificate's?
KEY_READ = 2


class Late:
    """An upstream that answers when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def __call__(self, taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        await self.may.wait()
        await taken.write(OK)


def port_of(child: Child) -> int:
    return int(child.listen.rpartition(":")[2])


async def test_it_runs_until_sigterm_and_drains(run: Run) -> None:
    """Ready; then an in-flight request finishes, new ones are refused, the probe says so, and the exit code is 0."""
    child = await run()
    assert (await child.asked("/readyz", child.admin_port))[0] == 200
    child.upstream.answer = late = Late()
    in_flight = asyncio.create_task(child.asked("/slow"))
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 1)
    child.process.send_signal(signal.SIGTERM)
    await child.line("draining")
    status, body = await child.asked("/readyz", child.admin_port)
    assert (status, json.loads(body)["status"]) == (503, "draining")
    with pytest.raises(aiohttp.ClientConnectorError):
        await child.asked("/new")
    late.may.set()
    assert await in_flight == (200, b"ok")
    assert await child.ended() == 0
    assert '"stopped"' in child.log
    assert '"task_ended"' not in child.log, "what drains ends as it should"


async def test_a_bad_file_replaces_nothing(run: Run) -> None:
    """SIGHUP: every problem is logged, the good configuration goes on; what needs a restart is refused by name."""
    child = await run(DENY)
    child.rewrite('[[routes]]\nmatch = "closed"\naction = "dney"\n')
    refused = await child.reload("reload_refused")
    assert [problem.partition(": ")[2].partition(":")[0] for problem in refused["problems"]] == [
        "routes[0].match",
        "routes[0].action",
    ]
    child.path.unlink()
    assert "cannot be read" in (await child.reload("reload_refused"))["problems"][0]
    assert (await child.asked("/closed"))[0] == 403
    assert (await child.asked("/open"))[0] == 200


async def test_what_is_bound_once_needs_a_restart(run: Run, tmp_path: Path) -> None:
    """SIGHUP with another listener or state_dir is refused and says which keys."""
    child = await run()
    changed = {"admin": f'"127.0.0.1:{free_port()}"', "state_dir": f'"{tmp_path / "other"}"', "socket_mode": '"0600"'}
    child.rewrite(DENY, **changed)
    keys = ["server.socket_mode", "server.admin", "server.state_dir"]
    assert (await child.reload("reload_refused"))["needs_restart"] == keys
    assert (await child.asked("/closed"))[0] == 200


async def test_a_good_file_takes_over_without_dropping_anybody(run: Run) -> None:
    """SIGHUP: a kept connection meets the new routes; what is under way goes on, if need be for longer than `drain`."""
    child = await run(drain='"0s"')
    child.upstream.answer = late = Late()
    in_flight = asyncio.create_task(child.asked("/slow"))
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 1)
    child.upstream.answer = OK
    async with RawClient(port_of(child)) as client:
        assert (await client.ask(target="/closed")).status == 200
        child.rewrite(DENY)
        await child.reload("reloaded")
        assert (await client.ask(target="/closed")).status == 403
    for _ in range(3):  # each takes longer than it would to take the first one down
        await child.reload("reloaded")
    late.may.set()
    assert await in_flight == (200, b"ok")


async def test_a_bad_configuration_never_starts(run: Run) -> None:
    """Exit code 2 and every problem as FILE:LINE: key, on stderr."""
    child = await run('[serer]\nx = 1\n[limits.ip]\nkey = "ip"\nrate = "often"\n', serves=False)
    assert await child.ended() == 2
    first, second = child.log.splitlines()
    line = CONFIG.count("\n") + 1
    assert first.startswith(f"{child.path}:{line}: serer: ")
    assert second.startswith(f"{child.path}:{line + 4}: limits.ip.rate: ")


async def test_a_taken_port_is_named(run: Run) -> None:
    """Exit code 1 and one line that says which listener."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = await run(listen=f"127.0.0.1:{port}", serves=False)
        line = await child.line("cannot_run")
        assert f"cannot listen on 127.0.0.1:{port}" in line["error"]
        assert await child.ended() == 1
        assert "Traceback" not in child.log


@pytest.mark.parametrize("name", ["keys/1-x.pem", "secret"])
async def test_a_file_of_the_state_that_cannot_be_used_is_named(run: Run, tmp_path: Path, name: str) -> None:
    """Exit code 1 and a line that says which file."""
    path = tmp_path / "state" / name
    path.parent.mkdir(parents=True)
    path.write_text("")
    child = await run(VERIFY, serves=False, secret='""')
    assert str(path) in (await child.line("cannot_run"))["error"]
    assert await child.ended() == 1


async def test_it_listens_on_a_unix_socket(run: Run, tmp_path: Path) -> None:
    """server.listen = "unix:/path"."""
    child = await run(DENY, listen=f"unix:{tmp_path / 'public.sock'}")
    async with RawClient(path=str(tmp_path / "public.sock")) as client:
        assert (await client.ask(target="/closed")).status == 403
        assert (await client.ask(target="/open")).status == 200
    assert child.upstream.requests[0].value(b"x-forwarded-for") == b"127.0.0.1"


async def test_a_unix_socket_goes_from_one_process_to_the_next(run: Run, tmp_path: Path) -> None:
    """It has its mode; a second process does not take it while it is served, and does once the first has ended."""
    path = tmp_path / "public.sock"
    first = await run(listen=f"unix:{path}", socket_mode='"0600"')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = await run(listen=f"unix:{path}", serves=False)
    assert "another process serves that socket" in (await second.line("cannot_run"))["error"]
    assert await second.ended() == 1
    async with RawClient(path=str(path)) as client:
        assert (await client.ask()).status == 200
    first.process.kill()
    await first.ended()
    await run(listen=f"unix:{path}")
    async with RawClient(path=str(path)) as client:
        assert (await client.ask()).status == 200


async def test_sighup_while_it_starts_is_heeded_once_it_serves(run: Run, tmp_path: Path) -> None:
    """Whoever changes the file and tells it so need not know whether it serves yet."""
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    child = await run(serves=False, secret=f'"${{file:{secret}}}"')
    with await asyncio.to_thread(secret.open, "w") as writing:  # once it is read
        child.process.send_signal(signal.SIGHUP)
        writing.write("children-secret-children-secret-children")
    await child.line("listening")
    await asyncio.to_thread(secret.write_text, "children-secret-children-secret-children")
    await child.line("reloaded")


async def test_what_ends_under_a_replaced_configuration_is_no_instance(run: Run, store_url: str) -> None:
    """A stream that began before the secret was rotated: its end holds up no other step, and one process counts."""
    old, new = '"children-secret-children-secret-children"', '"another-secret-another-secret-another"'
    child = await run(secret=f"{old}\nprevious_secrets = [{new}]")
    child.upstream.answer = late = Late()
    in_flight = asyncio.create_task(child.asked("/slow"))
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 1)
    async with a_store(store_url) as store:
        key = store.names.instances()

        async def is_one() -> bool:
            return bool(await store.execute(key, "ZCARD", key) == 1)

        child.rewrite(secret=f"{new}\nprevious_secrets = [{old}]")
        await child.reload("reloaded")
        await child.until(is_one)
        child.rewrite(secret=new)
        child.process.send_signal(signal.SIGHUP)
        told = await child.line_that(lambda line: line["event"] in {"reloaded", "reload_refused"})
        assert told["event"] == "reloaded"
        await child.until(is_one)
    late.may.set()
    assert (await in_flight)[0] == 200


async def test_it_takes_connections_for_a_while_after_sigterm(run: Run) -> None:
    """server.drain_delay: not ready at once, and nobody is refused whom a load balancer still sends."""
    child = await run(drain_delay='"2s"')
    began = time.monotonic()
    child.process.send_signal(signal.SIGTERM)
    assert (await child.line("draining"))["delay"] == 2
    served = 0
    try:
        while True:
            assert (await child.asked("/new"))[0] == 200
            status, body = await child.asked("/readyz", child.admin_port)
            assert (status, json.loads(body)["status"]) == (503, "draining")
            served += 1
    except aiohttp.ClientError:  # the first who is refused
        assert time.monotonic() - began >= 2
    assert served
    assert await child.ended() == 0


async def test_drain_is_the_whole_time(run: Run) -> None:
    """What is under way is broken off when it is over, and the process has ended soon after."""
    child = await run(drain='"500ms"')
    child.upstream.answer = Late()
    in_flight = asyncio.create_task(child.asked("/slow"))
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 1)
    child.process.send_signal(signal.SIGTERM)
    await child.line("draining")
    with awake() as took:
        assert await child.ended() == 0
        assert took() < 5
    with pytest.raises(aiohttp.ClientError):
        await in_flight


async def test_a_second_ctrl_c_does_not_wait(run: Run) -> None:
    """A second after the first, it breaks off what is under way; at once it says nothing, nor does another SIGTERM."""
    child = await run(drain='"60s"', drain_delay='"60s"')
    child.upstream.answer = Late()
    in_flight = asyncio.create_task(child.asked("/slow"))
    await child.upstream.wait_for(lambda: len(child.upstream.requests) == 1)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        child.process.send_signal(number)
    await child.line("draining")
    assert (await child.asked("/healthz", child.admin_port))[0] == 200
    await asyncio.sleep(1.1)  # what tells a person from a wrapper that passes a signal on twice
    child.process.send_signal(signal.SIGINT)
    await child.line("drain_cut_short")
    with pytest.raises(aiohttp.ClientError):
        await in_flight
    assert await child.ended() == 0


async def test_it_reads_the_proxy_protocol_of_whom_it_trusts(run: Run) -> None:
    """server.proxy_protocol: the header names the client; a reload may trust others, and changes nothing else of it."""
    child = await run(DENY, proxy_protocol="true", trusted_proxies='["127.0.0.0/8"]')
    header = SIGNATURE + struct.pack("!BBH4B4BHH", 0x21, 0x11, 12, 192, 0, 2, 1, 127, 0, 0, 1, 5000, 80)
    async with RawClient(port_of(child)) as client:
        await client.send(header)
        assert (await client.ask()).status == 200
        assert (await client.ask(target="/closed")).status == 403
    async with RawClient(port_of(child)) as client:
        with suppress(ConnectionError):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.rest() == b"", "no header, no HTTP"
    assert child.upstream.requests[0].value(b"x-forwarded-for") == b"192.0.2.1"
    child.rewrite(DENY, proxy_protocol="true", trusted_proxies='["192.0.2.0/24"]')
    await child.reload("reloaded")
    async with RawClient(port_of(child)) as client:
        assert (await client.ask()).status == 200
    assert child.upstream.requests[1].value(b"x-forwarded-for") == b"127.0.0.1"
    child.rewrite(DENY, trusted_proxies='["127.0.0.0/8"]')
    assert (await child.reload("reload_refused"))["needs_restart"] == ["server.proxy_protocol"]


async def test_a_kept_connection_learns_whom_a_reload_trusts(run: Run) -> None:
    """What one configuration made of a connection's other end says nothing under the next."""
    child = await run(trusted_proxies='["127.0.0.0/8"]')
    async with RawClient(port_of(child)) as client:
        for networks in ("127.0.0.0/8", "192.0.2.0/24", "127.0.0.0/8"):
            child.rewrite(trusted_proxies=f'["{networks}"]')
            await child.reload("reloaded")
            assert (await client.ask(fields=["X-Forwarded-For: 203.0.113.7"])).status == 200
    seen = [request.value(b"x-forwarded-for") for request in child.upstream.requests]
    assert seen == [b"203.0.113.7, 127.0.0.1", b"127.0.0.1", b"203.0.113.7, 127.0.0.1"]


async def test_it_speaks_tls(run: Run, tmp_path: Path) -> None:
    """server.tls; and a renewed certificate is taken with SIGHUP, though its path is the same."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first = self_signed(cert, key)
    child = await run(tls=f'{{ cert = "{cert}", key = "{key}" }}')
    assert await served(child) == first
    second = self_signed(cert, key)
    await child.reload("reloaded")
    assert await served(child) == second
    cert.write_text("garbled")
    assert "problems" in await child.reload("reload_refused")
    assert await served(child) == second


async def test_a_certificate_that_changes_while_it_is_read_leaves_the_old_one(run: Run, tmp_path: Path) -> None:
    """Found good by whoever checks it, and another one's key once it is taken: refused, and nothing lost."""
    cert, key, other = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "other.pem"
    first = self_signed(cert, key)
    child = await run(tls=f'{{ cert = "{cert}", key = "{key}" }}')
    self_signed(tmp_path / "others.pem", other)
    self_signed(cert, key)
    good, bad = key.read_text(), other.read_text()
    key.unlink()
    os.mkfifo(key)
    child.process.send_signal(signal.SIGHUP)
    await asyncio.to_thread(Pipe(key, [child.process.pid]).says, *[good] * KEY_READ, bad)
    await child.line("reload_refused")
    assert await served(child) == first


async def served(child: Child) -> bytes:
    """The certificate that the listener shows, DER; and one request over it works."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with RawClient(port_of(child), tls=context) as client:
        answer = await client.ask(target="/open")
        assert answer.status == 200
        assert child.upstream.requests[-1].value(b"x-forwarded-proto") == b"https"
        shown: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown


async def test_nothing_that_a_client_garbles_reaches_the_log(run: Run) -> None:
    """A parser's words quote the octets that it choked on: they may be a number, a code or a token."""
    child = await run(VERIFY)
    private = b'{"phone":"13912345678","code":"987654"}'
    heads = [
        b"POST /register HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + private + b"\r\n0\r\n\r\n",
        b"GET /x?phone=13912345678&code=987654 HTTP/1.1\nHost: x\n\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nX-Verification-Token : 13912345678.987654\r\n\r\n",
    ]
    for head in heads:
        async with RawClient(port_of(child)) as client:
            await client.send(head)
            assert b" 400 " in (await client.rest()).partition(b"\r\n")[0]
    child.process.send_signal(signal.SIGTERM)
    assert await child.ended() == 0
    assert child.log.count("unreadable") == len(heads)
    assert "13912345678" not in child.log
    assert "987654" not in child.log


def self_signed(cert: Path, key: Path) -> bytes:
    """Write a new certificate and its key; gives the certificate as DER."""
    private, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    made = builder.sign(private, hashes.SHA256())
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return made.public_bytes(serialization.Encoding.DER)
