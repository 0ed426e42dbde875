"""Instances of two versions on one store: what one has begun, the other ends. Real processes of both.

The version before is an archive of the package, `tests/data/versions/DATE.tar.xz`; `make version-before` makes one of
what is committed. It runs on the libraries that are here.
"""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import altcha
import pytest
from children import PATIENCE_S, Child, Run
from vendors import Vendor, vendor

ARCHIVE = max((Path(__file__).parent / "data" / "versions").glob("*.tar.xz"))
PHONE, E164 = "13900000001", "+8613900000001"
V1 = "/.sidecar/v1/verifications"
TABLES = """
[captcha.altcha]
kind = "altcha"
cost = 1
max_counter = 10
[limits.to]
key = "to"
rate = "2/1h"
[providers.hook]
kind = "webhook"
url = "{url}"
secret = "s"
[[routes]]
match = "POST /send"
action = "send"
to = "json:phone"
captcha = "altcha"
captcha_token = "json:captcha"
limits = ["to"]
[[routes]]
match = "POST /register"
action = "verify"
to = "json:phone"
code = "json:code"
"""


class Instance:
    """A running sidecar of some version, asked as a client asks it."""

    def __init__(self, child: Child) -> None:
        self.child = child

    async def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.child.url + path, json=body, headers=headers) as answer,
        ):
            octets = await answer.read()
            return answer.status, json.loads(octets) if octets.startswith(b"{") else octets

    async def solved(self) -> str:
        _, challenge = await self.child.asked("/.sidecar/captcha/altcha/challenge")
        made = json.loads(challenge)
        solution = altcha.solve_challenge(altcha.Challenge.from_dict(made))
        assert solution is not None
        return base64.b64encode(json.dumps({"challenge": made, "solution": solution.to_dict()}).encode()).decode()


async def code(hook: Vendor, to: str, count: int = 1) -> str:
    """The code of the newest message to a number, once so many have come."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            bodies = [json.loads(asked.body) for asked in hook.asked]
            mine = [body["code"] for body in bodies if body["to"] == to]
            if len(mine) >= count:
                return str(mine[-1])
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `-m sidecar` is the version before."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4 and later; ours alone before
        archive.extractall(folder)
    environment = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}  # else the current folder's package comes first
    asked = [sys.executable, "-c", "import sidecar; print(sidecar.__file__)"]
    where = subprocess.run(asked, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(folder))
    return environment


@pytest.mark.parametrize("is_older_first", [True, False], ids=["the older begins", "the newer begins"])
async def test_what_one_version_begins_the_other_ends(
    run: Run, before: dict[str, str], *, is_older_first: bool
) -> None:
    """Captcha, bucket, code, tries, token, Idempotency-Key; and the messages of one that is killed."""
    async with vendor() as hook:
        hook.answers(202, "{}")
        tables = TABLES.format(url=hook.url)
        environments: list[dict[str, str]] = [before, {}] if is_older_first else [{}, before]
        first, second = [Instance(await run(tables, env=env, providers='["hook"]')) for env in environments]

        # A challenge of one, solved, is a send at the other, and then spent at both; so is the number's bucket.
        token, key = await first.solved(), {"Idempotency-Key": "one"}
        body = {"phone": PHONE, "captcha": token}
        status, sent = await second.post("/send", body, key)
        assert status == 202, sent
        assert (await first.post("/send", body | {"phone": "13900000002"}))[1]["code"] == "captcha_failed"
        assert await first.post("/send", {"phone": PHONE, "captcha": await second.solved()}, key) == (202, sent)
        assert (await first.post("/send", {"phone": PHONE, "captcha": await second.solved()}))[0] == 202
        refused = await second.post("/send", {"phone": PHONE, "captcha": await first.solved()})
        assert (refused[0], refused[1]["code"]) == (429, "rate_limited")

        # A code is one code, and its tries are counted together.
        right = await code(hook, E164, 2)
        wrong = right[:-1] + str((int(right[-1]) + 1) % 10)
        left = [
            (await one.post("/register", {"phone": PHONE, "code": wrong}))[1]["attempts_left"]
            for one in (first, second)
        ]
        assert left == [4, 3]
        _, proof = await first.post(f"{V1}/{sent['id']}/check", {"code": right})
        shown = {"X-Verification-Token": proof["token"]}
        assert (await second.post("/register", {"phone": PHONE}, shown))[0] == 200
        assert (await first.post("/register", {"phone": PHONE, "code": right}))[1]["code"] == "code_expired"

        # What was accepted by one that dies is sent by the other.
        hook.hangs()
        numbers = [f"+8613900001{n:03}" for n in range(5)]
        for number in numbers:
            assert (await first.post(V1, {"to": number}))[0] == 202
        os.kill(first.child.process.pid, signal.SIGKILL)
        hook.answers(202, "{}")
        hook.released.set()
        for number in numbers:
            status, _ = await second.post("/register", {"phone": number, "code": await code(hook, number)})
            assert status == 200
