"""What is around the sidecar in the soak, and how does each part of it fail? Upstream, two vendors, a captcha's verifier, a store.

The servers live in the soak's own process, each behind a switch, `how`. The store is a Valkey of its own, with a log on disk.
"""

import asyncio
import base64
import collections
import hashlib
import hmac
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from urllib.parse import parse_qs, urlencode, urlsplit

from rig import LOAD_CORE, WORK

from sidecar.store.embedded import find_server, server_arguments

TOKEN = "a secret of the soak"
CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")
SLOW_S = 4.0
RECEIPT_AFTER_S = 0.2


def free_port():
    """A port below those that the system gives to connections, so that it is still free when who listens there comes back."""
    while True:
        port = random.randrange(15_000, 30_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def answer(status, body):
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Connection(asyncio.Protocol):
    """A request with its body whole, then its server's answer, one after the other."""

    def __init__(self, server):
        self.server, self.buffer = server, bytearray()

    def connection_made(self, transport):
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, _error):
        self.server.connections.discard(self)

    def data_received(self, data):
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = bytes(self.buffer[:head])
        low = fields.lower()
        at = low.find(b"\r\ncontent-length:")
        length = int(low[at + 17 :].partition(b"\r\n")[0]) if at >= 0 else 0
        if b"\r\ntransfer-encoding: chunked" in low:
            if not self.buffer.endswith(b"0\r\n\r\n"):
                return
            length = len(self.buffer) - head - 4
        if len(self.buffer) < head + 4 + length:
            return
        body = bytes(self.buffer[head + 4 : head + 4 + length])
        del self.buffer[: head + 4 + length]
        after_s, octets, cuts = self.server.reply(fields, body)
        asyncio.get_running_loop().call_later(after_s, self.write, octets, cuts)

    def write(self, octets, cuts):
        if self.transport.is_closing():
            return
        self.transport.write(octets)
        if cuts and octets:
            self.transport.close()
        elif cuts:
            self.transport.abort()


class Server:
    """One that answers on a port of its own. `how` is ok, or what its kind can do badly; "away": nobody listens."""

    def __init__(self):
        self.port, self.how, self.connections, self.count, self._server = free_port(), "ok", set(), 0, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def turn(self, how):
        self.how = how
        if how == "away":
            if self._server:
                self._server.close()
                self._server = None
            for one in tuple(self.connections):
                one.transport.abort()
        elif self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=1024, reuse_address=True
            )

    def reply(self, fields, body):
        """Seconds to wait, octets, and whether the connection ends then."""
        self.count += 1
        return self.answers(fields, body)


class Upstream(Server):
    """It counts who was let in with which identity, and answers every fifth registration that the name is taken.

    `resets`: breaks every second request off at once; `cuts`: every second answer in its middle; `slow`: answers late.
    """

    SMALL = answer(b"200 OK", b'{"id": 1, "name": "a small answer"}')
    TAKEN = answer(b"409 Conflict", b'{"error": "this name is taken"}')

    def __init__(self):
        super().__init__()
        self.registered, self.bare = collections.Counter(), 0
        self.big = answer(b"200 OK", bytes(20_000))

    def answers(self, fields, body):
        line = fields.partition(b"\r\n")[0]
        if self.how == "resets" and self.count % 2:
            return 0, b"", True
        after_s = SLOW_S / 2 if self.how == "slow" else 0
        octets = self.big if line.startswith(b"GET /asset") else self.SMALL
        if line.startswith(b"POST /api/register"):
            number = self.identity(fields)
            if number is None:
                self.bare += 1
            elif b'"taken"' in body:
                octets = self.TAKEN
            elif not (self.how == "cuts" and self.count % 2):
                self.registered[number] += 1
        if self.how == "cuts" and self.count % 2:
            return after_s, octets[: len(octets) // 2], True
        return after_s, octets, False

    @staticmethod
    def identity(fields):
        at = fields.lower().find(b"\r\nx-verified-identity:")
        if at < 0:
            return None
        claims = fields[at + 23 :].partition(b"\r\n")[0].strip().split(b".")[1]
        return json.loads(base64.urlsafe_b64decode(claims + b"==")).get("phone_number")


class Verifier(Server):
    """Turnstile's siteverify; a token that begins with "good" is right. `slow`, `lies`: 200 with nonsense."""

    RIGHT = answer(b"200 OK", b'{"success":true,"error-codes":[],"hostname":"www.example.com","action":"","cdata":""}')
    WRONG = answer(b"200 OK", b'{"success":false,"error-codes":["invalid-input-response"]}')

    def answers(self, fields, body):
        if self.how == "lies":
            return 0, answer(b"200 OK", b"<html>maintenance</html>"), False
        return SLOW_S if self.how == "slow" else 0.02, self.RIGHT if b"response=good" in body else self.WRONG, False


class Phones:
    """Who got which code through whom. `arrived[number]`: (time, vendor) of each call of a vendor with a message;
    `rung[number]`: the vendors that brought it.
    """

    def __init__(self):
        self.arrived, self.codes, self.waiting = collections.defaultdict(list), {}, {}
        self.rung = collections.defaultdict(list)

    def ring(self, number, code, vendor):
        self.codes[number] = code
        self.rung[number].append(vendor)
        if (waits := self.waiting.pop(number, None)) and not waits.done():
            waits.set_result(code)

    async def code(self, number, patience_s):
        """The code that came, or None."""
        if number in self.codes:
            return self.codes[number]
        waits = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(waits, patience_s)
        except TimeoutError:
            return None
        finally:
            self.waiting.pop(number, None)


class Vendor(Server):
    """A vendor of messages. How it fails: `slow` (answers after 4 s, and delivers then), `silent` (never), `refuses` (429),
    `resets` (takes the message and breaks the line), `lies` (in turn: takes it and delivers nothing; 200 with nonsense).
    """

    def __init__(self, name, phones):
        super().__init__()
        self.name, self.phones = name, phones

    def answers(self, fields, body):
        number, text, later = self.read(fields, body)
        self.phones.arrived[number].append((time.monotonic(), self.name))
        after_s, fine = 0.03, True
        if self.how == "refuses":
            return after_s, answer(b"429 Too Many Requests", b'{"code":20429,"message":"too many","status":429}'), False
        if self.how == "resets":
            return 0, b"", True
        if self.how == "silent":
            return 60, b"", True
        if self.how == "lies":
            if self.count % 2:
                return after_s, answer(b"200 OK", b"<html>maintenance</html>"), False
            fine = False
        if self.how == "slow":
            after_s = SLOW_S
        if fine:
            asyncio.get_running_loop().call_later(after_s, self.phones.ring, number, CODE.search(text)[0], self.name)
            later(after_s)
        return after_s, self.accepted(), False


class Twilio(Vendor):
    """With receipts, signed."""

    def read(self, fields, body):
        form = parse_qs(body.decode())
        callback = form.get("StatusCallback", [""])[0]
        sid = f"SM{self.count:032x}"

        def later(after_s):
            if callback:
                loop = asyncio.get_running_loop()
                loop.call_later(
                    after_s + RECEIPT_AFTER_S, lambda: self.begin(self.receipt(callback, sid, form["To"][0]))
                )

        return form["To"][0], form["Body"][0], later

    def accepted(self):
        return answer(b"201 Created", b'{"sid":"SM%032x","status":"queued","error_code":null}' % self.count)

    tasks = set()

    def begin(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def receipt(self, url, sid, to):
        """Say that it was delivered, again after a second where that is not taken, ten times."""
        form = {"MessageSid": sid, "MessageStatus": "delivered", "To": to}
        body = urlencode(form).encode()
        signed = url + "".join(name + value for name, value in sorted(form.items()))
        mac = base64.b64encode(hmac.digest(TOKEN.encode(), signed.encode(), hashlib.sha1)).decode()
        where = urlsplit(url)
        head = (
            f"POST {where.path}{'?' + where.query if where.query else ''} HTTP/1.1\r\nHost: {where.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nX-Twilio-Signature: {mac}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for _ in range(10):
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection(where.hostname, where.port)
                    writer.write(head.encode() + body)
                    line = await reader.readline()
                    writer.close()
                    if line[9:10] == b"2":
                        return
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(1)


class Hook(Vendor):
    """The operator's own endpoint, kind = "webhook"."""

    def read(self, fields, body):
        message = json.loads(body)
        return message["to"], message["text"], lambda after_s: None

    def accepted(self):
        return answer(b"202 Accepted", b"{}")


# The store…


async def said(port, command):
    """What a server answers to one command, as octets; nothing where it does not."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{command}\r\n".encode())
            reply = await reader.read(4096)
            writer.close()
            return reply
    return b""


class Valkey:
    """A Valkey on a port, that writes down what it is told as the embedded one does, and can be killed, frozen, started again."""

    def __init__(self, name="soak-store", options=()):
        self.port, self.home, self.process, self.options = free_port(), WORK / name, None, options
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    async def start(self, command=()):
        command = command or [
            str(find_server()),
            *server_arguments(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            *self.options,
        ]
        self.process = subprocess.Popen(
            ["taskset", "-c", str(LOAD_CORE), *command],
            cwd=self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while b"PONG" not in await said(self.port, "PING"):
            await asyncio.sleep(0.05)

    def pids(self):
        return [self.process.pid]

    async def kill(self):
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


class Group:
    """A primary, two replicas and three Sentinels, two of which must agree; the same switches as of one Valkey, thrown at whoever is primary.

    One that was killed comes back as a replica.
    """

    NAME = "soak"
    # A primary that is frozen for less goes on; one that is frozen for longer is replaced.
    DOWN_AFTER_MS = 2000

    def __init__(self):
        first = Valkey("soak-store-1")
        copies = [Valkey(f"soak-store-{n}", ("--replicaof", f"127.0.0.1 {first.port}")) for n in (2, 3)]
        self.servers = [first, *copies]
        self.sentinels = [Valkey(f"soak-sentinel-{n}") for n in range(3)]
        self.struck = first

    @property
    def url(self):
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{self.NAME}"

    async def start(self):
        """Start all; later on whoever has been killed."""
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                await server.start()
        for sentinel in self.sentinels:
            if sentinel.process is None:
                (sentinel.home / "sentinel.conf").write_text(
                    f"port {sentinel.port}\nbind 127.0.0.1\nsentinel monitor {self.NAME} 127.0.0.1 {self.servers[0].port} 2\n"
                    f"sentinel down-after-milliseconds {self.NAME} {self.DOWN_AFTER_MS}\nsentinel failover-timeout {self.NAME} 6000\n"
                )
                await sentinel.start([str(find_server()), "sentinel.conf", "--sentinel"])

    def pids(self):
        return [server.process.pid for server in self.servers]

    async def primary(self):
        """Whom the Sentinels say."""
        named = await said(self.sentinels[0].port, f"SENTINEL GET-MASTER-ADDR-BY-NAME {self.NAME}")
        return next((one for one in self.servers if b"\r\n%d\r\n" % one.port in named), self.struck)

    async def kill(self):
        self.struck = await self.primary()
        await self.struck.kill()

    async def freeze(self):
        self.struck = await self.primary()
        self.struck.freeze()

    def thaw(self):
        self.struck.thaw()

    async def hand_over(self):
        """Have the Sentinels make the replica the primary, as an operator does."""
        if b"+OK" not in (reply := await said(self.sentinels[0].port, f"SENTINEL FAILOVER {self.NAME}")):
            print("no fail-over:", reply, flush=True)

    def end(self):
        for one in (*self.sentinels, *self.servers):
            one.end()
