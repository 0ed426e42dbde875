"""What holds for every provider kind. A kind without its test and its recorded replies fails here."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from vendors import SOON_S, closed_port, vendor

from sidecar import outbound
from sidecar.config import model
from sidecar.delivery.providers import kinds
from sidecar.delivery.providers.remote import Remote
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Rejected, Uncertain
from sidecar.outbound import HttpReply
from sidecar.recipient import parse

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "data" / "delivery"
CODE = "83024691"
SECRET = "s3cr3t-of-the-account"
MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", CODE, 5, f"验证码 {CODE}")

# A table of each kind over HTTP, its secrets all SECRET, its vendor at `url`.
TABLES: dict[str, dict[str, str]] = {
    "twilio": {"account_sid": "ACtest", "auth_token": SECRET, "from": "+15005550006", "endpoint": "{url}"},
    "webhook": {"url": "{url}/sms", "secret": SECRET},
}
LOCAL = {"console"}
REMOTE = sorted(kinds().keys() - LOCAL)
REPLIES = [
    (kind, case) for kind in REMOTE for case in json.loads((DATA / f"{kind}_replies.json").read_text(encoding="utf-8"))
]


def settings(kind: str, url: str) -> Any:
    table = {name: value.format(url=url) for name, value in TABLES[kind].items()}
    return kinds()[kind].Settings.model_validate({"kind": kind} | table)


async def send(kind: str, url: str, timeout_s: float = SOON_S) -> Outcome:
    session = outbound.open_session()
    try:
        module: Any = kinds()[kind]
        return await Remote(module, settings(kind, url), session, lambda: 1_700_000_000.0, lambda: "0" * 32).send(
            MESSAGE, timeout_s
        )
    finally:
        await session.close()


@pytest.mark.parametrize(("kind", "module"), sorted(kinds().items()))
def test_kind_has_settings_channels_and_a_test(kind: str, module: ModuleType) -> None:
    """The name in TOML is the file's; the settings extend the common table; the test stands beside the others."""
    assert kind == module.__name__.rpartition(".")[2].replace("_", "-")
    assert issubclass(module.Settings, model.Provider)
    assert {"sms", "email"} >= module.CHANNELS
    assert module.CHANNELS
    assert (HERE / f"test_provider_{kind.replace('-', '_')}.py").exists()


def test_no_kind_is_forgotten_here() -> None:
    assert TABLES.keys() | LOCAL == kinds().keys()


@pytest.mark.parametrize(("kind", "case"), REPLIES, ids=[case["id"] for _, case in REPLIES])
def test_recorded_reply_is_read_as_documented(kind: str, case: dict[str, Any]) -> None:
    """Each recorded answer becomes Accepted with its id, Rejected with its fault, or stays open."""
    outcome = kinds()[kind].read(HttpReply(case["status"], {}, case["body"].encode()), MESSAGE)
    expect = case["expect"]
    match expect["kind"]:
        case "accepted":
            assert outcome == Accepted(expect["message_id"] or MESSAGE.id)
        case "transient" | "unclear":
            assert outcome == Uncertain(expect["code"] or f"http_{case['status']}")
        case fault:
            assert outcome == Rejected(fault, expect["code"])


@pytest.mark.parametrize("kind", REMOTE)
async def test_nobody_listening_is_a_rejection_that_others_may_follow(kind: str) -> None:
    outcome = await send(kind, closed_port())
    assert isinstance(outcome, Rejected)
    assert outcome.fault == "unreachable"
    assert outcome.may_try_next


@pytest.mark.parametrize("kind", REMOTE)
async def test_silence_is_unknown(kind: str) -> None:
    """The vendor has the message and does not answer: unknown, once the time is up."""
    async with vendor() as it:
        it.hangs()
        assert isinstance(await send(kind, it.url, timeout_s=0.2), Uncertain)
        assert len(it.asked) == 1


@pytest.mark.parametrize("kind", REMOTE)
async def test_broken_line_after_the_request_is_unknown_and_not_tried_again(kind: str) -> None:
    async with vendor() as it:
        it.resets()
        assert isinstance(await send(kind, it.url), Uncertain)
        assert len(it.asked) == 1


@pytest.mark.parametrize("kind", REMOTE)
async def test_redirect_is_not_followed_and_accepts_nothing(kind: str) -> None:
    """The code goes to the configured address, and nowhere else."""
    async with vendor() as it:
        it.answers(307, '{"sid": "SM1", "id": "1"}')
        assert not isinstance(await send(kind, it.url), Accepted)
        assert len(it.asked) == 1


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("body", ["", "null", "[]", "7", '"ok"', "<html>bad gateway</html>", "[" * 30_000])
async def test_server_fault_is_unknown_whatever_it_says(kind: str, body: str) -> None:
    async with vendor() as it:
        it.answers(502, body)
        assert isinstance(await send(kind, it.url), Uncertain)


@pytest.mark.parametrize("kind", REMOTE)
async def test_endless_answer_is_unknown(kind: str) -> None:
    async with vendor() as it:
        it.answers(201, " " * (outbound.MAX_REPLY + 1))
        assert isinstance(await send(kind, it.url), Uncertain)


@pytest.mark.parametrize("kind", REMOTE)
async def test_vendor_gets_the_code_and_the_number(kind: str) -> None:
    async with vendor() as it:
        it.answers(201, '{"sid": "SM1", "id": "SM1"}')
        assert await send(kind, it.url) == Accepted("SM1")
        body = (await it.arrival()).body.decode()
    assert CODE in body
    assert "8613900000001" in body


@pytest.mark.parametrize("kind", REMOTE)
def test_nothing_printed_shows_a_secret_a_code_or_a_number(kind: str) -> None:
    table = settings(kind, "https://example.com")
    made = kinds()[kind].request(table, MESSAGE, 0.0, "0" * 32)
    shown = f"{table!r} {table} {made!r} {MESSAGE!r}"
    assert SECRET not in shown
    assert CODE not in shown
    assert "13900000001" not in shown
