"""What holds for every provider kind. A kind without its test and its recorded replies fails here."""

import itertools
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sms_simulators import SECRET, VENDORS, simulated
from vendors import SOON_S, closed_port, vendor

from sidecar import outbound
from sidecar.config import model
from sidecar.delivery.providers import kinds
from sidecar.delivery.providers.remote import Remote
from sidecar.delivery.providers.seam import Accepted, Message, Outcome, Receipt, ReceiptReply, Rejected, Uncertain
from sidecar.outbound import HttpReply
from sidecar.recipient import parse

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "data" / "delivery"
CODE = "830246"
MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", CODE, 5, f"验证码 {CODE}")
ABROAD = replace(MESSAGE, recipient=parse("+85261234567", "sms", "HK"))

# A table of each kind over HTTP, its secrets all SECRET, its vendor at <url>.
TABLES: dict[str, dict[str, Any]] = {
    "aliyun": {
        "access_key_id": "AKID",
        "access_key_secret": SECRET,
        "sign_name": "示例 公司",
        "template": {"zh": "SMS_1", "en": "SMS_2"},
        "params": {"code": "{code}", "product": "注册 *~+"},
        "endpoint": "<url>",
    },
    "aliyun-intl": {"access_key_id": "AKID", "access_key_secret": SECRET, "from": "Example", "endpoint": "<url>"},
    "tencent": {
        "secret_id": "AKID",
        "secret_key": SECRET,
        "app_id": "1400000000",
        "sign_name": "示例",
        "template": "1110",
        "params": ["{code}", "{minutes}"],
        "endpoint": "<url>",
    },
    "juhe": {"key": SECRET, "template": "10086", "endpoint": "<url>"},
    "qiniu": {"access_key": "AKID", "secret_key": SECRET, "template": "1212", "endpoint": "<url>"},
    "twilio": {"account_sid": "ACtest", "auth_token": SECRET, "from": "+15005550006", "endpoint": "<url>"},
    "webhook": {"url": "<url>/sms", "secret": SECRET},
}
# A message that the kind carries, where it is not the mainland's.
MESSAGES = {"aliyun-intl": ABROAD}
LOCAL = {"console", "smtp"}
REMOTE = sorted(kinds().keys() - LOCAL)


def recorded(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


REPLIES = [(kind, case) for kind in REMOTE for case in recorded(f"{kind}_replies.json")]
# What the vendors' own pages say of their codes.
DOCUMENTED = [
    (kind, code, said) for kind, codes in recorded("documented_codes.json").items() for code, said in codes.items()
]


def settings(kind: str, url: str, **more: Any) -> Any:
    table = {
        name: value.replace("<url>", url) if isinstance(value, str) else value for name, value in TABLES[kind].items()
    }
    return kinds()[kind].Settings.model_validate({"kind": kind} | table | more)


async def send(
    kind: str, url: str, timeout_s: float = SOON_S, *, now: float | None = None, more: dict[str, Any] | None = None
) -> Outcome:
    session = outbound.open_session()
    nonces = itertools.count()
    try:
        module: Any = kinds()[kind]
        provider = Remote(
            module,
            settings(kind, url, **(more or {})),
            session,
            lambda: now or time.time(),
            lambda: f"{next(nonces):032}",
        )
        return await provider.send(MESSAGES.get(kind, MESSAGE), timeout_s)
    finally:
        await session.close()


def accepted(kind: str) -> dict[str, Any]:
    """The vendor's recorded yes."""
    return next(case for one, case in REPLIES if one == kind and case["expect"]["kind"] == "accepted")


@pytest.mark.parametrize(("kind", "module"), sorted(kinds().items()))
def test_kind_has_settings_channels_and_a_test(kind: str, module: ModuleType) -> None:
    """The name in TOML is the file's; the settings extend the common table; the test stands beside the others."""
    assert kind == module.__name__.rpartition(".")[2].replace("_", "-")
    assert issubclass(module.Settings, model.Provider)
    assert {"sms", "email"} >= module.CHANNELS
    assert module.CHANNELS
    assert (HERE / f"test_provider_{kind.replace('-', '_')}.py").exists()
    assert f"\n| `{kind}` |" in (HERE.parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "module"), sorted(kinds().items()))
def test_kind_reads_receipts_or_says_that_there_are_none(kind: str, module: Any) -> None:
    if hasattr(module, "receipts"):
        assert isinstance(module.RECEIPT_REPLY, ReceiptReply)
    else:
        assert module.RECEIPTS is None


def test_no_kind_is_forgotten_here() -> None:
    assert TABLES.keys() | LOCAL == kinds().keys()


FIRST_MESSAGES = """
import sys
from sidecar import outbound
from sidecar.delivery.providers import kinds
from test_provider_cases import MESSAGE, MESSAGES, REMOTE, settings

for kind in REMOTE:
    table = settings(kind, "http://127.0.0.1:1")
    before = set(sys.modules)
    made = kinds()[kind].request(table, MESSAGES.get(kind, MESSAGE), 0.0, "nonce")
    assert isinstance(made, outbound.HttpRequest), made
    print(kind, *set(sys.modules) - before)
"""


def test_first_message_waits_for_no_import() -> None:
    """All that a kind needs is imported with it: an import of a tenth of a second stops the whole loop."""
    path = os.pathsep.join(map(str, (HERE, HERE.parents[1], HERE.parents[2])))
    asked = subprocess.run(
        [sys.executable, "-c", FIRST_MESSAGES],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (asked.returncode, asked.stdout.splitlines()) == (0, REMOTE), asked.stderr


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


def refusal(kind: str, code: str, fields: dict[str, str] | None = None, status: int | None = None) -> HttpReply:
    """A refusal in the vendor's error shape, as its page has it."""
    number = int(code) if code.isdigit() else code
    bodies: dict[str, Any] = {
        "aliyun": {"Code": code, "Message": "m", "RequestId": "R"},
        "aliyun-intl": {"ResponseCode": code, "ResponseDescription": "d"},
        "tencent": {"Response": {"Error": {"Code": code, "Message": "m"}, "RequestId": "R"}},
        "juhe": {"reason": "r", "result": None, "error_code": number},
        "qiniu": {"error": code, "message": "m", "request_id": "q"},
        "twilio": {"code": number, "message": "m", "more_info": "https://www.twilio.com/docs", "status": 400},
        "webhook": {"error": code},
    }
    said = 400 if kind in {"qiniu", "twilio", "webhook"} else 200
    return HttpReply(status or said, fields or {}, json.dumps(bodies[kind]).encode())


@pytest.mark.parametrize(("kind", "code", "said"), DOCUMENTED)
def test_documented_code_is_read_as_the_vendor_means_it(kind: str, code: str, said: str) -> None:
    """Every code of the vendor's own tables; one that may come after the message went out leaves that open."""
    outcome = kinds()[kind].read(refusal(kind, code), MESSAGE)
    assert outcome == (Uncertain(code) if said == "unknown" else Rejected(said, code))  # type: ignore[arg-type]


# A refusal is a refusal, whatever its word…

# Words that no table has, of the shape that each vendor's words have.
NEW_WORDS = {
    "aliyun": ["Forbidden", "isv.SOMETHING_NEW", "isp.SOMETHING_NEW", "签名错误"],
    "aliyun-intl": ["SOMETHING_NEW", "Forbidden.RAM"],
    "tencent": ["FailedOperation.SomethingNew", "SomethingNew"],
    "juhe": ["205499", "1"],
    "qiniu": ["SomethingNew", "some thing"],
    "twilio": ["21657", "1"],
    "webhook": ["out of paper"],
}


@pytest.mark.parametrize(("kind", "word"), [(kind, word) for kind, words in NEW_WORDS.items() for word in words])
def test_refusal_in_an_unknown_word_is_a_refusal_and_another_may_try(kind: str, word: str) -> None:
    outcome = kinds()[kind].read(refusal(kind, word), MESSAGE)
    assert isinstance(outcome, Rejected), outcome
    assert (outcome.fault, outcome.may_try_next, outcome.is_passing) == ("request", True, False)


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_server_fault_leaves_every_word_open(kind: str, status: int) -> None:
    """The message may have gone out before the server failed, whatever it says then."""
    words = [code for one, code, _ in DOCUMENTED if one == kind]
    for word in (*words, *NEW_WORDS[kind]):
        assert isinstance(kinds()[kind].read(refusal(kind, word, status=status), MESSAGE), Uncertain)


# Bodies that say nothing: another's error page, half an answer, a number, nothing.
UNREADABLE = [b"", b"<html>no</html>", b"null", b"[]", b"7", b'"OK"', b"{", b"\xff\xfe{", b"{}", b'{"ok": true}']


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("body", UNREADABLE)
@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, "request"),
        (401, "credentials"),
        (402, "balance"),
        (403, "credentials"),
        (404, "request"),
        (405, "request"),
        (407, "unreachable"),
        (408, "unreachable"),
        (413, "request"),
        (421, "request"),
        (425, "unreachable"),
        (429, "throttled"),
        (451, "request"),
        (499, "request"),
    ],
)
def test_refusal_by_status_needs_no_body(kind: str, body: bytes, status: int, fault: str) -> None:
    """A 4xx is a refusal, whoever on the way wrote its body."""
    assert kinds()[kind].read(HttpReply(status, {}, body), MESSAGE) == Rejected(fault, f"http_{status}")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(set(REMOTE) - {"webhook"}))
@pytest.mark.parametrize("body", UNREADABLE)
@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_status_with_nothing_that_can_be_read_is_unknown(kind: str, body: bytes, status: int) -> None:
    """The vendor has the request, and nobody knows what it did with it."""
    assert isinstance(kinds()[kind].read(HttpReply(status, {}, body), MESSAGE), Uncertain)


@pytest.mark.parametrize("kind", sorted(set(REMOTE) - {"webhook"}))
@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_redirect_is_a_refusal_where_it_promises_that_nothing_was_done(kind: str, status: int) -> None:
    """After a 302 or 303 a form may have been taken: many servers send the browser on so."""
    outcome = kinds()[kind].read(HttpReply(status, {"location": "https://example.com/"}, b""), MESSAGE)
    assert outcome == (
        Rejected("request", f"http_{status}") if status in {301, 307, 308} else Uncertain(f"http_{status}")
    )


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize(("asked", "seconds"), [("7", 7.0), ("Fri, 27 Nov 2026 12:00:30 GMT", 30.0), ("soon", None)])
def test_throttled_vendor_is_heard_when_it_says_until_when(kind: str, asked: str, seconds: float | None) -> None:
    """429 passes by itself; Retry-After is a time in seconds, or a date by the vendor's own clock."""
    fields = {"retry-after": asked, "date": "Fri, 27 Nov 2026 12:00:00 GMT"}
    outcome = kinds()[kind].read(HttpReply(429, fields, b""), MESSAGE)
    assert outcome == Rejected("throttled", "http_429", seconds)
    assert outcome.is_passing


@pytest.mark.parametrize("kind", ["aliyun", "aliyun-intl"])
def test_throttled_gateway_of_alibaba_says_milliseconds(kind: str) -> None:
    for said, seconds in (("1500", 1.5), ("", None), ("-1", None), ("1e3", None), ("9" * 99, None)):
        outcome = kinds()[kind].read(refusal(kind, "Throttling.Api", {"x-acs-retry-after": said}, 400), MESSAGE)
        assert isinstance(outcome, Rejected)
        assert outcome.retry_after_s == seconds


@pytest.mark.parametrize("kind", sorted(set(REMOTE) - {"webhook"}))
def test_answer_with_two_readings_is_unknown(kind: str) -> None:
    """A yes in a refusal's clothes, or a name that stands twice: neither sent nor refused."""
    yes = accepted(kind)
    document = yes["body"].encode()
    assert isinstance(kinds()[kind].read(HttpReply(400, {}, document), MESSAGE), Uncertain)
    twice = document.rstrip().removesuffix(b"}") + b', "RequestId": "a", "RequestId": "b"}'
    assert isinstance(kinds()[kind].read(HttpReply(yes["status"], {}, twice), MESSAGE), Uncertain)


@pytest.mark.parametrize("kind", REMOTE)
def test_yes_is_read_in_every_encoding_of_json(kind: str) -> None:
    """A byte order mark, UTF-16: JSON all the same, as Python reads it."""
    yes = accepted(kind)
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        outcome = kinds()[kind].read(HttpReply(yes["status"], {}, yes["body"].encode(encoding)), MESSAGE)
        assert outcome == Accepted(yes["expect"]["message_id"] or MESSAGE.id)


@pytest.mark.parametrize("kind", sorted(NEW_WORDS))
def test_word_that_quotes_the_recipient_is_not_shown(kind: str) -> None:
    """What a vendor writes where its word should stand goes into no log unless it looks like a word."""
    for text in ("no such number +8613900000001", "isv.13900000001", "a" * 81, "x\n{}", "\ud800"):
        outcome = kinds()[kind].read(refusal(kind, text), MESSAGE)
        shown = outcome.vendor_code if isinstance(outcome, Rejected) else outcome.reason
        assert shown in {"unreadable_word", "http_200", "http_400"}


@pytest.mark.parametrize("case", recorded("receipts.json"), ids=lambda case: case["id"])
def test_recorded_receipt_is_read_as_documented(case: dict[str, Any]) -> None:
    """Each report becomes a Receipt in our words, and the vendor hears what it wants; anything else is refused."""
    module = kinds()[case["kind"]]
    fields = {"content-type": "application/x-www-form-urlencoded" if case["kind"] == "twilio" else "application/json"}
    if case.get("malformed"):
        with pytest.raises(ValueError, match="expected"):
            module.receipts(fields, case["body"].encode())
        return
    read: tuple[Receipt, ...] = module.receipts(fields, case["body"].encode())
    states = {"delivered": {"delivered"}, "failed": {"expired", "undeliverable", "rejected"}, "pending": {"enroute"}}
    assert len(read) == len(case["reports"])
    for receipt, report in zip(read, case["reports"], strict=True):
        assert receipt.provider_message_id == report["message_id"]
        assert receipt.recipient == report["to"].removeprefix("+")
        assert receipt.state in states[report["state"]]
        assert receipt.vendor_code == report["code"]
        assert receipt.client_ref == report["client_ref"]
    if case["reply"]:
        reply = module.RECEIPT_REPLY
        assert reply.status == case["reply"]["status"]
        wanted = case["reply"].get("json")
        assert wanted is None or {**reply.json, "msg": "any text"} == {"msg": "any text", **wanted}


@pytest.mark.parametrize("kind", sorted(kind for kind, module in kinds().items() if hasattr(module, "receipts")))
@pytest.mark.parametrize(
    "body", [b"", b"null", b"7", b"[7]", b"[[]]", b'{"items": 7}', b"\xff\xfe", b"[" * 30_000, b"[{}]"]
)
def test_receipt_that_cannot_be_read_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"expected|codec"):
        kinds()[kind].receipts({"content-type": "application/x-www-form-urlencoded"}, body)


# Answers and receipts made of the vendors' own words, in every wrong shape.
WORDS = st.sampled_from(
    [
        *("Code", "OK", "Ok", "BizId", "ResponseCode", "MessageId", "Response"),
        *("Error", "SendStatusSet", "SerialNo", "error_code", "result", "sid", "message_id"),
        *("job_id", "error", "code", "id", "items", "status", "DELIVRD"),
        *("FAILED", "success", "biz_id", "err_code", "To", "Status", "report_status"),
    ]
)
LEAVES = st.none() | st.booleans() | st.sampled_from([0, 1, -1, 205401, 21211, 1.5]) | WORDS | st.text(max_size=3)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=8
)


@given(st.sampled_from(REMOTE), st.sampled_from([199, 200, 201, 204, 302, 400, 401, 403, 429, 500, 503]), DOCUMENTS)
def test_whatever_is_answered_has_an_outcome(kind: str, status: int, document: Any) -> None:
    """Never an exception; a yes only with an id, and never where the vendor's server failed."""
    outcome = kinds()[kind].read(HttpReply(status, {}, json.dumps(document).encode()), MESSAGE)
    if isinstance(outcome, Accepted):
        assert 200 <= status <= 299
        assert outcome.provider_message_id
    else:
        assert isinstance(outcome, Rejected | Uncertain)
        assert status < 500 or isinstance(outcome, Uncertain)
        assert document or not 400 <= status < 500 or isinstance(outcome, Rejected)


@given(st.sampled_from(sorted(kind for kind, module in kinds().items() if hasattr(module, "receipts"))), DOCUMENTS)
def test_whatever_is_reported_is_a_receipt_or_refused(kind: str, document: Any) -> None:
    with suppress(ValueError):
        for receipt in kinds()[kind].receipts({"content-type": "application/json"}, json.dumps(document).encode()):
            assert isinstance(receipt, Receipt)
            assert receipt.provider_message_id


@pytest.mark.parametrize("kind", sorted(VENDORS))
async def test_simulated_vendor_takes_what_is_signed_right(kind: str) -> None:
    """Off the wire, worked out anew: signature, number and code are as the vendor asks for them."""
    async with simulated(kind) as it:
        outcome = await send(kind, it.url)
        assert isinstance(outcome, Accepted), outcome
        [(number, held)] = it.sent
    assert number.removeprefix("+86") in {"13900000001", "85261234567"}
    assert CODE in json.dumps(held)


@pytest.mark.parametrize("kind", sorted(VENDORS))
async def test_simulated_vendor_refuses_a_wrong_secret(kind: str) -> None:
    secret = next(name for name, value in TABLES[kind].items() if value == SECRET)
    async with simulated(kind) as it:
        outcome = await send(kind, it.url, more={secret: "wrong"})
        assert isinstance(outcome, Rejected), outcome
        assert outcome.fault == "credentials"
        assert it.sent == []


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("aliyun", "InvalidTimeStamp.Expired"),
        ("aliyun-intl", "InvalidTimeStamp.Expired"),
        ("tencent", "AuthFailure.SignatureExpire"),
    ],
)
async def test_simulated_vendor_refuses_a_clock_that_is_off(kind: str, code: str) -> None:
    async with simulated(kind) as it:
        assert await send(kind, it.url, now=time.time() - 3600) == Rejected("credentials", code)


@pytest.mark.parametrize("kind", ["aliyun", "aliyun-intl"])
async def test_simulated_vendor_refuses_a_nonce_used_twice(kind: str) -> None:
    async with simulated(kind) as it:
        assert isinstance(await send(kind, it.url), Accepted)
        assert await send(kind, it.url) == Rejected("credentials", "SignatureNonceUsed")


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
        yes = accepted(kind)
        it.answers(yes["status"], yes["body"])
        assert await send(kind, it.url) == Accepted(yes["expect"]["message_id"] or MESSAGE.id)
        asked = await it.arrival()
    said = unquote_plus(asked.target) + unquote_plus(asked.body.decode())
    assert CODE in said
    assert MESSAGES.get(kind, MESSAGE).recipient.address.removeprefix("+").removeprefix("86") in said


@pytest.mark.parametrize("kind", REMOTE)
def test_nothing_printed_shows_a_secret_a_code_or_a_number(kind: str) -> None:
    table = settings(kind, "https://example.com")
    made = kinds()[kind].request(table, MESSAGES.get(kind, MESSAGE), 0.0, "0" * 32)
    assert isinstance(made, outbound.HttpRequest)
    shown = f"{table!r} {table} {made!r} {MESSAGE!r}"
    assert SECRET not in shown
    assert CODE not in shown
    assert "13900000001" not in shown
    assert "61234567" not in shown
