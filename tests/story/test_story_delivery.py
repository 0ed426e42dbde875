"""How a message is delivered, through the whole product: the command `send`, rules, receipts."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from vendors import Vendor, closed_port, vendor

from sidecar import cli

PHONE = "+8613900000001"
CONFIG = """
[server]
state_dir = "{state}"
secret = "story-secret-story-secret-story-secret"
[store]
url = "{store}"
[providers.{first}]
kind = "webhook"
url = "{first_url}"
secret = "s"
[providers.{second}]
kind = "webhook"
url = "{second_url}"
secret = "s"
[[delivery]]
countries = ["CN"]
providers = ["{first}", "{second}"]
switch_after = "200ms"
"""


class Sending:
    """`signup-sidecar send` on two vendors, and what it prints."""

    def __init__(self, tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._path = tmp_path / "config.toml"
        self._state = tmp_path
        self._store_url = store_url
        self._capsys = capsys
        # Breakers outlive a test: each has providers of its own.
        self.first, self.second = (f"{name}-{secrets.token_hex(4)}" for name in ("first", "second"))

    def urls(self, first: str, second: str) -> None:
        names = {"first": self.first, "second": self.second, "first_url": first, "second_url": second}
        self._path.write_text(CONFIG.format(state=self._state, store=self._store_url, **names))

    async def send(self, *options: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(cli.main, ["send", str(self._path), *options])
        told = self._capsys.readouterr()
        return code, told.out, told.err


@pytest.fixture
def sending(tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str]) -> Sending:
    return Sending(tmp_path, store_url, capsys)


def bodies(vendor: Vendor) -> list[Any]:
    return [json.loads(one.body) for one in vendor.asked]


async def test_send_shows_each_attempt_its_time_and_its_outcome(sending: Sending) -> None:
    async with vendor() as second:
        second.answers(202, '{"id": "v-7"}')
        sending.urls(closed_port(), second.url)
        code, out, _ = await sending.send("--to", PHONE)
        lines = [line.split() for line in out.splitlines()]
        assert code == 0
        assert lines[0][:2] == ["+861********01", "(CN),"]
        assert (lines[1][0], lines[1][2:5]) == (sending.first, ["s", "rejected", "unreachable"])
        assert (lines[2][0], lines[2][2:]) == (sending.second, ["s", "accepted", "v-7"])
        assert lines[3][:3] == ["accepted", "by", sending.second]
        assert all(0 <= float(line[1]) < 5 for line in lines[1:3])
        [body] = bodies(second)
        assert body["to"] == PHONE
        assert len(body["code"]) == 6
        assert body["code"] not in out
        assert PHONE not in out


async def test_send_via_asks_that_provider_alone(sending: Sending) -> None:
    async with vendor() as first, vendor() as second:
        second.answers(202, "")
        sending.urls(first.url, second.url)
        code, out, _ = await sending.send("--to", PHONE, "--via", sending.second)
        assert code == 0
        assert sending.first not in out
        assert (len(first.asked), len(second.asked)) == (0, 1)


async def test_send_via_works_where_no_rule_matches(sending: Sending) -> None:
    async with vendor() as first:
        first.answers(202, "")
        sending.urls(first.url, first.url)
        assert (await sending.send("--to", "+14155550100"))[0] == 2
        assert (await sending.send("--to", "+14155550100", "--via", sending.first))[0] == 0


async def test_send_that_nobody_took_exits_with_1(sending: Sending) -> None:
    async with vendor() as first:
        first.answers(400, '{"error": "number_blocked"}')
        sending.urls(first.url, closed_port())
        code, out, _ = await sending.send("--to", PHONE)
        assert (code, out.splitlines()[-1].split()[0]) == (1, "refused")
        assert "number_blocked" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "twelve"], "--to: Expected a telephone number"),
        (["--to", PHONE, "--via", "nobody"], "there is no [providers.nobody]"),
        (["--to", "+14155550100"], "no [[delivery]] rule matches"),
    ],
)
async def test_send_that_cannot_be_meant_exits_with_2(sending: Sending, options: list[str], said: str) -> None:
    sending.urls(closed_port(), closed_port())
    code, out, err = await sending.send(*options)
    assert code == 2
    assert said in err
    assert not out
