"""Real backends behind a real sidecar, and a catalogue of ways round it. `make test-backends` runs this."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from real_backends import BACKENDS, Backend
from ways_round import CATALOGUE, CODE, HONEST, HONEST_WAYS, Way, request

pytestmark = [pytest.mark.backends, pytest.mark.timeout(300)]

_START_S: Final = 30.0
_ANSWER_S: Final = 1.0  # for an end that keeps its connection
_CONFIG: Final = """
[server]
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin_port}"
state_dir = "{state}"
secret = "backends-secret-backends-secret-backends"
log_format = "json"
[upstream]
url = "http://127.0.0.1:{upstream_port}"
[store]
url = "{store}"
[api]
captcha = ""
limits = []
[numbers]
test = {{ "{honest}" = "{code}" }}
[providers.console]
kind = "console"
[[delivery]]
providers = ["console"]
{routes}
"""


def _routes() -> str:
    table = '[[routes]]\nmatch = "POST /api{}/{}"\naction = "{}"\nto = "{}:phone"\n'
    text = ""
    for place, source in (("", "form"), ("/json", "json"), ("/query", "query")):
        if source != "query":
            text += table.format(place, "sms/code", "send", source)
        text += table.format(place, "register", "verify", source) + f'code = "{source}:code"\n'
    wordpress = table.replace("/api", "/wp-json/api").format("", "register", "verify", "form")
    account = table.replace("POST", "PUT").format("", "account", "verify", "form")
    return "".join(part + 'code = "form:code"\n' for part in (text + wordpress, account))


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def _started(command: list[str], port: int, env: dict[str, str], log: Path) -> Iterator[None]:
    """A child that listens on a port."""
    with log.open("wb") as said:
        child = subprocess.Popen(command, env={**os.environ, **env}, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert child.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < until, f"{command[0]} does not listen: {log.read_text(errors='replace')[-2000:]}"
            time.sleep(0.05)
        yield
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _answer(port: int, octets: bytes) -> bytes:
    """Send a request whole, and read until the other end closes."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as connection:
        try:
            connection.sendall(octets.replace(b"HOST", b"127.0.0.1:%d" % port))
            while chunk := connection.recv(65536):
                got += chunk
        except (TimeoutError, ConnectionError):
            pass
    return got


@dataclass
class Stand:
    """One backend, the sidecar in front of it, and the file in which the backend tells what was reached."""

    backend: Backend
    port: int
    upstream_port: int
    file: Path

    def reached(self, port: int, way: Way) -> tuple[list[dict[str, Any]], bytes]:
        """Send a way round to a port: which handlers ran, and the answer."""
        octets = way.octets.replace(b"TOKEN", self.token()) if b"TOKEN" in way.octets else way.octets
        self.file.write_bytes(b"")
        answer = _answer(port, octets)
        return [json.loads(line) for line in self.file.read_text("utf-8").splitlines()], answer

    def token(self) -> bytes:
        """A verification token of HONEST's, from the API."""
        started = self._api("/.sidecar/v1/verifications", {"to": HONEST})
        checked = self._api(f"/.sidecar/v1/verifications/{started['id']}/check", {"code": CODE})
        return str(checked["token"]).encode()

    def _api(self, target: str, document: dict[str, str]) -> dict[str, Any]:
        answer = _answer(self.port, request(target, json.dumps(document), kind="application/json"))
        found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found

    def send_code(self) -> None:
        answer = _answer(self.port, request("/api/sms/code", f"phone={HONEST.replace('+', '%2B')}"))
        assert answer.split(b" ")[1] == b"202", answer


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: str(backend.name))
def stand(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store_url: str) -> Iterator[Stand]:
    backend: Backend = request.param
    if reason := backend.missing():
        pytest.skip(f"{backend.name}: {reason}")
    folder = tmp_path_factory.mktemp(backend.name)
    port, admin_port, upstream_port = _free_port(), _free_port(), _free_port()
    reached = folder / "reached"
    config = folder / "sidecar.toml"
    config.write_text(
        _CONFIG.format(
            port=port,
            admin_port=admin_port,
            upstream_port=upstream_port,
            state=folder / "state",
            store=store_url,
            honest=HONEST,
            code=CODE,
            routes=_routes(),
        ),
        "utf-8",
    )
    command = [part.replace("PORT", str(upstream_port)) for part in backend.command]
    ours = [sys.executable, "-m", "sidecar", "run", str(config)]
    with ExitStack() as stack:
        stack.enter_context(_started(command, upstream_port, {**backend.env, "REACHED": str(reached)}, folder / "log"))
        stack.enter_context(_started(ours, port, {}, folder / "sidecar.log"))
        yield Stand(backend, port, upstream_port, reached)


def _is_honest(told: dict[str, Any]) -> bool:
    """True when all that the backend reads has the very digits of the number that the identity names.

    The country code may be missing, a trunk or an international prefix may stand before it.
    """
    spelled = ["".join(str(int(char)) for char in str(reading) if char.isdecimal()) for reading in told["phones"]]
    national = HONEST.removeprefix("+86")
    is_same = all(re.fullmatch(f"(0|(00)?86)?{national}", digits) for digits in spelled)
    return bool(told["sub"] == HONEST and is_same and not any(isinstance(one, list) for one in told["phones"]))


@pytest.mark.parametrize("way", HONEST_WAYS, ids=lambda way: way.name)
def test_an_honest_request_reaches_its_handler(stand: Stand, way: Way) -> None:
    """With a proof, the handler runs and reads the number that the identity names; without one it does not."""
    stand.send_code()
    reached, answer = stand.reached(stand.port, way)
    assert [told["handler"] for told in reached] == ["register"], answer
    assert reached[0]["phones"]
    assert _is_honest(reached[0]), reached
    assert stand.reached(stand.port, way)[0] == [], "the code was spent"


def test_the_path_as_it_came_is_the_signed_one(stand: Stand) -> None:
    """What docs/backend.md compares with `htu` is equal to it, whether the backend decodes its path or not."""
    told = []
    for target in ("/api/%72egister?utm_source=x", "/api/register?utm_source=x"):
        stand.send_code()
        told += stand.reached(stand.port, Way(target, request(target, f"phone={quote(HONEST)}&code={CODE}")))[0]
    assert told
    if stand.backend.has_raw_path:
        assert [reached["path"] for reached in told] == [reached["htu"] for reached in told]


def test_no_way_leads_round(stand: Stand) -> None:
    """No guarded handler runs without a proof; with one, the backend reads the very number that was proven."""
    found = []
    for way in CATALOGUE:
        if way.proof:
            stand.send_code()
        reached, answer = stand.reached(stand.port, way)
        found += [
            f"{way.name}: {told} after {way.octets[:120]!r}"
            for told in reached
            if not (way.proof and told["handler"] == "register" and _is_honest(told))
        ]
        if len(reached) > 1:
            found.append(f"{way.name}: {len(reached)} handlers ran")
        head = answer.partition(b"\r\n\r\n")[0]
        if head.startswith(b"HTTP/1.1 500") and b"\r\nServer: signup-sidecar" in head:
            found.append(f"{way.name}: 500 of our own")
    assert not found, "\n".join(found)


def test_the_catalogue_is_true(stand: Stand) -> None:
    """Without the sidecar, ways of the catalogue do lead to guarded handlers of this backend."""
    opened = [way.name for way in CATALOGUE if not way.proof and stand.reached(stand.upstream_port, way)[0]]
    print(f"\n{stand.backend.name}: {len(opened)} ways open guarded handlers when nothing stands in front")  # noqa: T201 - shown with -s
    assert len(opened) > 5
