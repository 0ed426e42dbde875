"""Who asks the sidecar in the soak, what do they do, and what did they see? An open loop of people and of those who are refused.

A person asks for a code, waits for it, types it in (now and then a wrong one first, or none at all), and tries again after a
5xx as people do. What each answer was is kept by its kind, until the soak's next sample takes it.
"""

import asyncio
import collections
import itertools
import json
import random
import time

PATIENCE_S = 30.0
# How long a person waits for a code.
CODE_S = 60.0
# Of what is asked, requests in a hundred; a sign-up is two and an API sign-up four of them.
MIX = {"refused": 35, "guard": 20, "sign-up": 30, "API": 15}
REQUESTS = {"refused": 1, "guard": 1, "sign-up": 2.2, "API": 4}
# Plain requests for each guarded one.
PLAIN = 0.5
IDLE = 128


class Reply:
    __slots__ = ("status", "body")

    def __init__(self, status, body=b""):
        self.status, self.body = status, body

    @property
    def json(self):
        try:
            said = json.loads(self.body)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def code(self):
        """A refusal's code; "broken", "late" where there was no answer."""
        if self.status <= 0:
            return "late" if self.status else "broken"
        return self.json.get("code", "") if self.status >= 400 else ""


class Client:
    """Kept connections, as a front proxy has. A GET is asked again on a new connection when a kept one ended meanwhile."""

    def __init__(self, port):
        self.port, self.idle = port, collections.deque()

    async def ask(self, method, path, body=None, fields="", leaves=False):
        octets = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        if body is not None:
            fields += f"Content-Type: application/json\r\nContent-Length: {len(octets)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: www.example.com\r\n{fields}\r\n".encode()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    reader, writer, is_kept = await self.connection()
                    try:
                        writer.write(head + octets)
                        if leaves:
                            await asyncio.sleep(random.random() / 100)
                            writer.transport.abort()
                            return None
                        return await self.read(reader, writer)
                    except (OSError, asyncio.IncompleteReadError) as error:
                        writer.transport.abort()
                        if not is_kept or method != "GET" or getattr(error, "partial", b""):
                            return Reply(0)
                    except BaseException:
                        writer.transport.abort()
                        raise
        except TimeoutError:
            return Reply(-1)
        except OSError:
            return Reply(0)

    async def connection(self):
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof() and not writer.transport.is_closing():
                return reader, writer, True
            writer.transport.abort()
        return *await asyncio.open_connection("127.0.0.1", self.port), False

    async def read(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        low = head.lower()
        at = low.find(b"\r\ncontent-length:")
        body = await reader.readexactly(int(low[at + 17 : low.index(b"\r", at + 2)])) if at >= 0 else b""
        if b"\r\nconnection: close" in low or len(self.idle) >= IDLE:
            writer.close()
        else:
            self.idle.append((reader, writer))
        return Reply(int(head[9:12]), body)

    def close(self):
        for _, writer in self.idle:
            writer.transport.abort()
        self.idle.clear()


# Flows under way: what more were due would take descriptors that upstream and the vendors, in this process, need.
MOST_BUSY = 6_000


class People:
    """The load. `counts` sums all answers by (kind, status, code), `recent` has those since the last sample.

    `accepted[number]`: how many messages were accepted with 202 for it; `maybe[number]`: asked for, and the answer did not say.
    `errors`: (when it was asked, when it was answered, kind, status, code) of what should not have been.
    """

    def __init__(self, port, phones):
        self.client, self.phones = Client(port), phones
        self.counts, self.recent, self.errors = collections.Counter(), collections.defaultdict(list), []
        self.accepted, self.maybe, self.ids = collections.Counter(), collections.Counter(), {}
        self.verified, self.without_code, self.busy = set(), [], set()
        self.tries = collections.defaultdict(list)  # of each number: what each try to register came to
        self.asked = 0  # guarded requests
        self.left_out = 0  # flows that were due, and not begun
        self.random = random.Random(1)
        self._numbers = (f"+86138{n:08d}" for n in itertools.count(10_000_000))
        self._addresses = itertools.count()

    # What each kind does…

    async def plain(self):
        draw = self.random.random()
        if draw < 0.02:
            await self.client.ask("GET", "/left", leaves=True)
        elif draw < 0.05:
            await self.ask("plain", "POST", "/upload", bytes(200_000))
        else:
            await self.ask("plain", "GET", "/asset" if draw < 0.3 else "/")

    async def guard(self):
        await self.ask("guard", "POST", "/api/login", {"user": "somebody"}, self.address())

    async def refused(self):
        """One who is refused, in one of eight ways."""
        way = self.random.randrange(8)
        hot = f"+8613900000{self.random.randrange(10):03}"
        kind = ("refused", "POST", "/api/sms")
        if way == 0:
            await self.ask(*kind, {"phone": next(self._numbers)}, self.address())
        elif way == 1:
            await self.ask(
                *kind, {"phone": next(self._numbers), "captcha": f"bad-{self.random.random()}"}, self.address()
            )
        elif way == 2:
            await self.ask(*kind, {"phone": "+8612", "captcha": "good"}, self.address())
        elif way == 3:
            await self.ask(*kind, b'{"phone": ', self.address())
        elif way == 4:  # an address that asks too often
            await self.ask(
                *kind, {"phone": hot, "captcha": f"bad-{self.random.random()}"}, "X-Forwarded-For: 203.0.113.9\r\n"
            )
        elif way == 5:  # a number that is asked for too often
            reply = await self.ask("refused", "POST", "/api/sms", self.solved(hot), self.address())
            self.note_send(hot, reply)
        elif way == 6:  # a guess
            await self.ask(
                "refused",
                "POST",
                "/api/register",
                {"phone": hot, "code": f"{self.random.randrange(10**6):06}"},
                self.address(),
            )
        else:
            await self.ask(
                "refused", "POST", "/api/register", {"phone": next(self._numbers), "code": "123456"}, self.address()
            )

    async def sign_up(self):
        number, address = next(self._numbers), self.address()
        once = f"Idempotency-Key: {number}\r\n" if self.random.random() < 0.3 else ""
        reply = await self.insist("send", number, "/api/sms", self.solved(number), address + once)
        if reply.status != 202:
            return
        code = await self.phones.code(number, CODE_S)
        if code is None:
            self.without_code.append((time.monotonic(), number))
            return
        draw = self.random.random()
        if draw < 0.15:  # never types it in
            return
        await asyncio.sleep(0.2 + self.random.random())
        register = {"phone": number, "code": code, "name": "taken" if draw < 0.3 else "free"}
        if draw > 0.9:
            wrong = {**register, "code": f"{(int(code) + 1) % 10**6:06}"}
            await self.ask("refused", "POST", "/api/register", wrong, address)
        await self.register(number, register, address)

    async def api_sign_up(self):
        number, address = next(self._numbers), self.address()
        path = "/.sidecar/v1/verifications"
        captcha = self.solved(number)["captcha"]
        reply = await self.insist("send", number, path, {"to": number, "captcha": captcha}, address)
        if reply.status != 202:
            return
        path = f"{path}/{reply.json['id']}"
        await self.ask("api", "GET", path, None, address + "Prefer: wait=2\r\n")
        code = await self.phones.code(number, CODE_S)
        if code is None:
            self.without_code.append((time.monotonic(), number))
            return
        reply = await self.again("api", "POST", f"{path}/check", {"code": code}, address)
        if reply.status == 200:
            token = f"X-Verification-Token: {reply.json['token']}\r\n"
            await self.register(number, {"phone": number, "name": "free"}, address + token)

    async def register(self, number, body, fields):
        tries = self.tries[number]
        reply = await self.again("verify", "POST", "/api/register", body, fields, tries=tries)
        if reply.status == 409 and not reply.code:
            reply = await self.again("verify", "POST", "/api/register", {**body, "name": "free"}, fields, tries=tries)
        if reply.status == 200:
            self.verified.add(number)

    # Asking…

    def solved(self, number):
        return {"phone": number, "captcha": f"good-{number}-{self.random.random()}"}

    def address(self):
        n = next(self._addresses)
        return f"X-Forwarded-For: 10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}\r\n"

    async def insist(self, kind, number, path, body, fields):
        """Ask for a message until it is accepted, as people do: three times, with a captcha solved anew."""
        for turn in range(3):
            if turn:
                await asyncio.sleep(1 + self.random.random())
                body = {**body, "captcha": self.solved(number)["captcha"]}
            reply = await self.ask(kind, "POST", path, body, fields)
            self.note_send(number, reply)
            if 200 <= reply.status < 500:
                break
        return reply

    def note_send(self, number, reply):
        if reply.status == 202:
            self.accepted[number] += 1
            self.ids[reply.json["id"]] = number
        elif reply.status <= 0 or reply.status >= 500:
            self.maybe[number] += 1

    async def again(self, kind, *request, tries=None):
        """Ask until the answer is none of a failure, five times. Where the connection broke nobody knows what was done: not again."""
        for turn in range(5):
            if turn:
                await asyncio.sleep(0.5 + self.random.random())
            reply = await self.ask(kind, *request)
            if tries is not None:
                tries.append(f"{reply.status} {reply.code}".strip())
            if not (reply.status >= 500 or reply.code == "verification_in_use"):
                break
        return reply

    async def ask(self, kind, *request):
        began = time.monotonic()
        reply = await self.client.ask(*request)
        ended = time.monotonic()
        self.asked += kind != "plain"
        fine = (
            400 <= reply.status < 500
            if kind == "refused"
            else reply.status in {200, 202} or (reply.status == 409 and not reply.code)
        )
        # A number that is asked for too often is let in now and then.
        fine = fine or (kind == "refused" and reply.status in {200, 202})
        self.counts[kind, reply.status, reply.code] += 1
        self.recent[kind].append(((ended - began) * 1000, fine))
        if not fine:
            self.errors.append((began, ended, kind, reply.status, reply.code, request[0], request[1]))
        return reply

    # The loop…

    def begin(self, flow):
        if len(self.busy) >= MOST_BUSY:
            self.left_out += 1
            return
        task = asyncio.ensure_future(flow())
        self.busy.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task):
        self.busy.discard(task)
        task.result()  # a fault of the soak's own ends it

    def flows(self, per_s):
        """What begins, and how often a second, when so many guarded requests a second are asked."""
        flows = {"refused": self.refused, "guard": self.guard, "sign-up": self.sign_up, "API": self.api_sign_up}
        return {flow: per_s * MIX[name] / 100 / REQUESTS[name] for name, flow in flows.items()} | {
            self.plain: per_s * PLAIN
        }

    async def opened(self, per_s, until):
        """Begin so much a second, whatever comes of it."""
        flows = self.flows(per_s)
        due = {flow: time.monotonic() + self.random.random() for flow in flows}
        while (now := time.monotonic()) < until:
            for flow, rate in flows.items():
                while due[flow] <= now:
                    due[flow] += self.random.expovariate(rate)
                    self.begin(flow)
            await asyncio.sleep(0.005)

    async def closed(self, at_once, seconds):
        """Do one thing after the other, so many at once; guarded requests a second."""
        flows = self.flows(1)
        until, before, began = time.monotonic() + seconds, self.asked, time.monotonic()

        async def one():
            while time.monotonic() < until:
                (flow,) = self.random.choices(list(flows), list(flows.values()))
                await flow()

        await asyncio.gather(*(one() for _ in range(at_once)))
        return (self.asked - before) / (time.monotonic() - began)
