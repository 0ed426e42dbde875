"""Does one real sign-up get through? Walks it by HTTP, as a person's browser and telephone would, step by step.

Law: it knows only what the outside shows: URLs, JSON, the handset. A step that finds anything else than it expects is
the end of the walk. It prints no code and no token.
"""

import asyncio
import hashlib
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import altcha
import jwt

from sidecar.demo.colour import paint
from sidecar.demo.ports import Ports

AUDIENCE: Final = "pinewood-library"

_ISSUER: Final = "signup-sidecar"
_IDENTITY: Final = "X-Verified-Identity"
_PREFIX: Final = "/.sidecar"

# Two operators, one after the other, and the slow one's four seconds.
_MESSAGE_WITHIN_S: Final = 10.0
# Milliseconds, and up to a few seconds of work, on a machine that may have little time for either.
_ANSWER_WITHIN_S: Final = 30.0
_SOLVED_WITHIN_S: Final = 90.0
_SHOWN_CHARS: Final = 240


class UnexpectedError(Exception):
    """A step found something else than it should."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(expected, came)
        self.expected = expected
        self.came = came


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def __str__(self) -> str:
        return f"{self.status} {self.body.decode(errors='replace')[:_SHOWN_CHARS]}"

    @property
    def document(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def code(self) -> Any:
        return self.document.get("code") if isinstance(self.document, dict) else None


async def is_running(ports: Ports) -> bool:
    """True when a demo's handset answers on its port."""
    try:
        async with aiohttp.ClientSession() as session:
            return set(await _operators(session, ports)) == {"a", "b"}
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False


async def walk(ports: Ports) -> int:
    """Walk all steps and print each with its time. Returns the exit code: 0, or 1 at the first step that fails."""
    print(f"\n  One sign-up through {ports.url('public', '/')}\n", flush=True)
    begun = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        walker = _Walker(session, ports)
        steps = walker.steps()
        for number, (name, step) in enumerate(steps, 1):
            step_begun = time.monotonic()
            try:
                await step()
                failure = None
            except UnexpectedError as error:
                failure = error
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = UnexpectedError("an HTTP answer", f"{type(error).__name__}: {error}")
            took_ms = (time.monotonic() - step_begun) * 1000
            tick = paint("✗", "red") if failure else paint("✓", "green")
            print(f"  {tick} {number:>2}  {name:<58}{took_ms:>7.0f} ms", flush=True)
            if failure:
                print(f"         expected: {failure.expected}\n         came:     {failure.came}")
                print(f"\n  Failed at step {number} of {len(steps)}, {name}: {time.monotonic() - begun:.1f} s\n")
                return 1
    print(f"\n  All {len(steps)} steps in {time.monotonic() - begun:.1f} s\n")
    return 0


class _Walker:
    """Somebody with a browser and a new telephone number, and a look into the backend's journal afterwards."""

    def __init__(self, session: aiohttp.ClientSession, ports: Ports) -> None:
        self._session = session
        self._ports = ports
        run = secrets.token_hex(4)
        self._name = f"Smoke Test {run}"
        self._agent = f"signup-sidecar-smoke/{run}"  # tells our requests from others' in the journal
        self._phone = f"139{secrets.randbelow(10**8):08d}"  # a new number, so that no limit remembers it
        self._captcha = ""
        self._code = ""
        self._sent = b""  # the body of the request that got through

    def steps(self) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
        return (
            ("the sidecar is ready", self.ready),
            ("the backend's page passes through untouched", self.page),
            ("a registration without a code is refused, and not passed on", self.unverified),
            ("a captcha challenge is handed out and solved", self.solve),
            ("a code is asked for", self.ask),
            ("the message arrives on the handset", self.read),
            ("a wrong code is refused", self.mistype),
            ("the right code registers", self.register),
            ("the backend saw a signed identity, bound to this request", self.identity),
            ("the code works only once", self.again),
        )

    async def ready(self) -> None:
        answer = await self._call("GET", self._ports.url("admin", "/readyz?needs=store,upstream"))
        _expect(answer.status == 200, "200", answer)

    async def page(self) -> None:
        direct = await self._call("GET", self._ports.url("backend", "/"))
        through = await self._call("GET", self._ports.url("public", "/"))
        same = through.status == 200 and through.body == direct.body
        _expect(same, f"200 and the {len(direct.body)} octets that the backend sends", through)

    async def unverified(self) -> None:
        answer = await self._register({"name": self._name, "phone": self._phone})
        _expect(answer.status == 401 and answer.code == "code_required", "401 code_required", answer)
        await self._expect_journal(0)

    async def solve(self) -> None:
        answer = await self._call("GET", self._ports.url("public", f"{_PREFIX}/captcha/altcha/challenge"))
        _expect(answer.status == 200 and isinstance(answer.document, dict), "200 and a challenge", answer)
        challenge = altcha.Challenge.from_dict(answer.document)
        solution = await asyncio.to_thread(altcha.solve_challenge, challenge, timeout=_SOLVED_WITHIN_S)
        if solution is None:
            raise UnexpectedError(f"a solution within {_SOLVED_WITHIN_S:.0f} s", "none")
        self._captcha = altcha.Payload(challenge, solution).to_base64()

    async def ask(self) -> None:
        url = self._ports.url("public", "/api/sms/code")
        body = json.dumps({"phone": self._phone, "captcha": self._captcha}).encode()
        answer = await self._call("POST", url, body)
        _expect(answer.status in {200, 202}, "200 or 202", answer)

    async def read(self) -> None:
        try:
            async with asyncio.timeout(_MESSAGE_WITHIN_S):
                self._code = await self._code_on_handset()
        except TimeoutError:
            states = await _operators(self._session, self._ports)
            told = ", ".join(f"operator {name} is {state}" for name, state in states.items())
            expected = f"a message with a code within {_MESSAGE_WITHIN_S:.0f} s"
            raise UnexpectedError(expected, f"no message; {told}") from None

    async def mistype(self) -> None:
        wrong = f"{(int(self._code) + 1) % 10 ** len(self._code):0{len(self._code)}d}"
        answer = await self._register({"name": self._name, "phone": self._phone, "code": wrong})
        left = answer.document.get("attempts_left") if isinstance(answer.document, dict) else None
        is_refused = answer.status == 422 and answer.code == "code_mismatch" and left == 4
        _expect(is_refused, "422 code_mismatch with attempts_left 4", answer)

    async def register(self) -> None:
        answer = await self._register({"name": self._name, "phone": self._phone, "code": self._code})
        _expect(200 <= answer.status < 300 and answer.code == 0, '2xx and the backend\'s {"code": 0}', answer)

    async def identity(self) -> None:
        (seen,) = await self._expect_journal(1)
        tokens = [value for name, value in seen["fields"] if name.lower() == _IDENTITY.lower()]
        if len(tokens) != 1:
            raise UnexpectedError(f"one {_IDENTITY} field", f"{len(tokens)}")
        keys = await self._call("GET", self._ports.url("public", f"{_PREFIX}/jwks.json"))
        _expect(keys.status == 200, "200 and the public keys", keys)
        expected = {
            "sub": f"+86{self._phone}",
            "phone_number": f"+86{self._phone}",
            "phone_number_verified": True,
            "amr": ["sms"],
            "htm": "POST",
            "htu": "/api/register",
            "body_sha256": hashlib.sha256(self._sent).hexdigest(),
        }
        try:
            key = jwt.PyJWKSet.from_dict(keys.document)[jwt.get_unverified_header(tokens[0])["kid"]]
            rules = jwt.types.Options(require=["iss", "aud", "sub", "iat", "nbf", "exp", "jti"])
            claims = jwt.decode(tokens[0], key, ["ES256"], audience=AUDIENCE, issuer=_ISSUER, options=rules)
        except (jwt.PyJWTError, KeyError) as error:
            raise UnexpectedError(
                "a token that the published keys verify", f"{type(error).__name__}: {error}"
            ) from None
        wrong = [name for name, value in expected.items() if claims.get(name) != value]
        if wrong:
            raise UnexpectedError("claims about this number and this request", f"others in {', '.join(wrong)}")

    async def again(self) -> None:
        answer = await self._register({"name": f"{self._name} again", "phone": self._phone, "code": self._code})
        _expect(answer.status == 410 and answer.code == "code_expired", "410 code_expired", answer)
        await self._expect_journal(1)

    # By HTTP…

    async def _register(self, document: Mapping[str, str]) -> Answer:
        self._sent = json.dumps(document).encode()
        return await self._call("POST", self._ports.url("public", "/api/register"), self._sent)

    async def _call(self, method: str, url: str, body: bytes | None = None) -> Answer:
        fields = {"User-Agent": self._agent} | ({"Content-Type": "application/json"} if body else {})
        async with self._session.request(method, url, data=body, headers=fields) as answer:
            return Answer(answer.status, await answer.read())

    async def _code_on_handset(self) -> str:
        """Follow the handset's event stream until our number's message is there; the caller holds the clock."""
        forever = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._ports.url("handset", "/events"), timeout=forever) as stream:
            async for line in stream.content:
                if not line.startswith(b"data: "):
                    continue
                message = json.loads(line.removeprefix(b"data: "))
                if message.get("to") == f"+86{self._phone}":
                    found = re.search(r"(?<!\d)\d{4,8}(?!\d)", message["text"])
                    if found is None:
                        raise UnexpectedError("a code in the message", "a message without one")
                    return found[0]
        raise UnexpectedError("a live handset", "its event stream ended")

    async def _expect_journal(self, count: int) -> list[Any]:
        """Our registrations that reached the backend; raises UnexpectedError when they are not `count`."""
        journal = await self._call("GET", self._ports.url("backend", "/journal.json"))
        _expect(journal.status == 200 and isinstance(journal.document, list), "200 and the journal", journal)
        ours = [
            seen
            for seen in journal.document
            if seen["path"] == "/api/register" and ["User-Agent", self._agent] in seen["fields"]
        ]
        if len(ours) != count:
            raise UnexpectedError(f"{count} registrations in the backend's journal", str(len(ours)))
        return ours


async def _operators(session: aiohttp.ClientSession, ports: Ports) -> dict[str, str]:
    async with session.get(ports.url("handset", "/operators.json")) as answer:
        document = json.loads(await answer.read())
        return document if isinstance(document, dict) else {}


def _expect(holds: bool, expected: str, came: Answer) -> None:
    if not holds:
        raise UnexpectedError(expected, str(came))
