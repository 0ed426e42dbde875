"""`send`: contract section 3, sentence by sentence, over real sockets."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from telling import CONFIG, E164, MAIN, OTHER, PHONE, SEND, TEST_NUMBER, VERIFY, Start

from sidecar import logs
from sidecar.delivery.outbox import Answered, Entry, Leased, Outbox
from sidecar.errors import StoreAwayError

JSON = {"Content-Type": "application/json"}


async def test_a_message_is_queued_and_arrives(start: Start) -> None:
    """202 with the contract's document, masked, and the code reaches the vendor in E.164."""
    sidecar = await start(to_rate="1/60s")
    reply = await sidecar.send()
    assert reply.status == 202
    document = reply.json
    assert set(document) == {"id", "to", "channel", "status", "expires_in", "resend_in"}
    assert (document["channel"], document["status"]) == ("sms", "queued")
    assert PHONE not in document["to"]
    assert 295 <= document["expires_in"] <= 300
    assert 55 <= document["resend_in"] <= 60
    assert reply.headers["Location"] == f"/.sidecar/v1/verifications/{document['id']}"
    code = await sidecar.vendor.code(E164)
    assert len(code) == 6
    assert code.isdecimal()
    assert not sidecar.upstream.requests, "a send route never reaches upstream"


async def test_a_configuration_made_anew_runs_the_scripts_that_the_process_began_with(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade puts others in their place, which go by other words, while old processes reload and make workers."""
    real = Path.read_text

    def read_text(path: Path, *of: Any, **more: Any) -> str:
        return "return 'of the next version'" if path.suffix == ".lua" else real(path, *of, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    sidecar = await start()
    assert (await sidecar.send()).status == 202
    assert len(await sidecar.vendor.code(E164)) == 6


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"phone": "13900000001", "phone": "13900000002", "captcha": "x"}', JSON),
        (b'{"phone": "13900000001", "Phone": "13900000002", "captcha": "x"}', JSON),
        (b'{"phone": "13900000001", "captcha": "x"}', {"Content-Type": "text/plain"}),
        (b'{"phone": "13900000001", "captcha": "x"}', {"Content-Type": "application/json; charset=utf-16"}),
        (b'{"captcha": "x"}', JSON),
        (b"", JSON),
        (b"[]", JSON),
    ],
    ids=["duplicate", "case duplicate", "content type", "charset", "no recipient", "empty", "no object"],
)
async def test_an_ambiguous_body_is_refused(start: Start, body: bytes, headers: dict[str, str]) -> None:
    """malformed_request: never two readings."""
    sidecar = await start()
    reply = await sidecar.ask("POST", "/send", data=body, headers=headers)
    assert (reply.status, reply.code) == (400, "malformed_request")


async def test_a_missing_captcha_token_is_refused_while_parsing(start: Start) -> None:
    """captcha_required comes before any limit: even a full bucket is not looked at."""
    sidecar = await start(ip_rate="1/1h")
    assert (await sidecar.send()).status == 202
    for _ in range(2):
        reply = await sidecar.ask("POST", "/send", json={"phone": PHONE})
        assert (reply.status, reply.code) == (403, "captcha_required")
    assert (await sidecar.send()).code == "rate_limited"


async def test_a_recipient_that_is_none_is_refused(start: Start) -> None:
    """invalid_recipient, while parsing."""
    sidecar = await start()
    reply = await sidecar.send("not a number")
    assert (reply.status, reply.code) == (422, "invalid_recipient")
    assert "country code" in reply.json["detail"]


async def test_limits_on_who_asks_come_before_the_captcha(start: Start) -> None:
    """The token of a request that the IP bucket refused is not spent."""
    sidecar = await start(ip_rate="1/1h", to_rate="1000/1s")
    assert (await sidecar.send()).status == 202
    token = await sidecar.solved()
    for _ in range(2):
        reply = await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": token})
        assert (reply.status, reply.code) == (429, "rate_limited")


async def test_a_refusal_by_a_limit_says_when_and_which(start: Start) -> None:
    """Retry-After, RateLimit and RateLimit-Policy."""
    sidecar = await start(ip_rate="1/60s")
    await sidecar.send()
    reply = await sidecar.send()
    assert reply.status == 429
    assert 55 <= int(reply.headers["Retry-After"]) <= 60
    assert reply.headers["RateLimit-Policy"].startswith('"ip";q=1;w=60')
    assert reply.headers["RateLimit"].startswith('"ip";r=0;t=')


async def test_the_captcha_comes_before_limits_on_what_is_asked(start: Start) -> None:
    """Without solving captchas nobody empties a stranger's bucket, nor learns that it is empty."""
    sidecar = await start(to_rate="1/1h")
    for _ in range(5):
        reply = await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": "wrong"})
        assert (reply.status, reply.code) == (403, "captcha_failed")
    assert (await sidecar.send()).status == 202
    reply = await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": "wrong"})
    assert reply.code == "captcha_failed"
    assert (await sidecar.send()).code == "rate_limited"
    assert (await sidecar.send(OTHER)).status == 202


async def test_the_number_policy_comes_after_the_captcha(start: Start) -> None:
    """recipient_not_allowed by country and by type, told only to those who solved a captcha."""
    tables = MAIN
    sidecar = await start(tables, config=CONFIG.replace("[numbers]", '[numbers]\ncountries = ["CN"]'))
    reply = await sidecar.ask("POST", "/send", json={"phone": "+14155550100", "captcha": "wrong"})
    assert reply.code == "captcha_failed"
    reply = await sidecar.send("+14155550100")
    assert (reply.status, reply.code) == (403, "recipient_not_allowed")


async def test_blocked_number_types_are_refused(start: Start) -> None:
    """Premium numbers cost money that somebody else earns."""
    sidecar = await start()
    assert (await sidecar.send("+448001111111")).code == "recipient_not_allowed"


async def test_a_solved_captcha_works_once(start: Start) -> None:
    """A token used twice is captcha_failed, in a race too."""
    sidecar = await start()
    token = await sidecar.solved()
    replies = await asyncio.gather(
        *(sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": token}) for _ in range(8))
    )
    assert Counter(reply.status for reply in replies) == {202: 1, 403: 7}


async def test_wrong_captcha_tokens_have_a_bucket_of_their_own(start: Start) -> None:
    """Past `failures` the verifier is no longer asked; the ip bucket is untouched by wrong tokens."""
    config = CONFIG.replace("max_counter = 10", 'max_counter = 10\nfailures = "2/1h"')
    sidecar = await start(config=config, ip_rate="1/1h")
    for _ in range(2):
        assert (await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": "x"})).code == "captcha_failed"
    reply = await sidecar.send()
    assert (reply.status, reply.code) == (429, "rate_limited")
    assert reply.headers["RateLimit"].startswith('"captcha.altcha"')


async def test_wrong_captcha_tokens_at_once_are_as_many_as_one_after_another(start: Start) -> None:
    """The budget is of those that the verifier judges, however many come at once; right ones cost nothing of it."""
    config = CONFIG.replace("max_counter = 10", 'max_counter = 10\nfailures = "7/1h"')
    sidecar = await start(config=config)
    for _ in range(8):
        assert (await sidecar.send()).status == 202
    wrong = {"phone": PHONE, "captcha": "x"}
    replies = await asyncio.gather(*(sidecar.ask("POST", "/send", json=wrong) for _ in range(40)))
    assert Counter(reply.code for reply in replies) == {"captcha_failed": 7, "rate_limited": 33}


async def test_a_bucket_is_spent_only_by_a_message_that_is_queued(start: Start) -> None:
    """A request that the recipient's bucket refuses takes nothing from the IP's."""
    sidecar = await start(ip_rate="2/1h", to_rate="1/1h")
    assert (await sidecar.send()).status == 202
    for _ in range(3):
        reply = await sidecar.send()
        assert (reply.status, reply.code) == (429, "rate_limited")
        assert reply.headers["RateLimit"].startswith('"to"')
    assert (await sidecar.send(OTHER)).status == 202, "the second of the IP's two is still there"


async def test_a_store_that_says_no_is_told_and_gives_back_what_was_taken(start: Start) -> None:
    """Strange data under a name of ours: nothing is queued, so nothing is spent; the refusal is counted as any."""
    sidecar = await start(to_rate="1/1h")
    await sidecar.store.execute(sidecar.store.names.outbox(), "SET", sidecar.store.names.outbox(), "strange")
    reply = await sidecar.send()
    assert (reply.status, reply.code) == (503, "store_unavailable")
    assert await sidecar.metric('sidecar_requests_total{action="send",outcome="refused"}') == 1, (
        "metrics are there, too"
    )
    await sidecar.store.execute(sidecar.store.names.outbox(), "DEL", sidecar.store.names.outbox())
    assert (await sidecar.send()).status == 202


async def test_a_fault_of_ours_is_counted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks, the request has ended, and is in the log and the metrics."""
    sidecar = await start()

    async def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(sidecar.app.courier._outbox, "put_and_lease", broken)
    reply = await sidecar.send()
    assert reply.status == 500
    assert await sidecar.metric('sidecar_requests_total{action="send",outcome="failed"}') == 1


async def test_a_full_outbox_gives_back_what_was_taken(start: Start) -> None:
    """overloaded: nothing is queued, so nothing is spent."""
    sidecar = await start(ip_rate="2/1h", to_rate="1/1h")
    outbox = sidecar.app.courier._outbox
    sidecar.app.courier._outbox = Outbox(outbox._store, max_messages=0)
    reply = await sidecar.send()
    assert (reply.status, reply.code) == (503, "overloaded")
    assert int(reply.headers["Retry-After"]) >= 1
    sidecar.app.courier._outbox = outbox
    assert (await sidecar.send()).status == 202
    assert (await sidecar.send(OTHER)).status == 202


async def test_a_message_that_is_not_queued_leaves_the_code_as_it_was(start: Start) -> None:
    """A new code that nobody will be sent is none; one that was sent before still works."""
    sidecar = await start()
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code()
    courier = sidecar.app.courier
    courier._outbox = Outbox(courier._outbox._store, max_messages=0)
    assert (await sidecar.send()).code == (await sidecar.send(OTHER)).code == "overloaded"
    assert (await sidecar.register("123456", OTHER)).code == "code_expired"
    assert (await sidecar.register(code)).status == 200


async def test_a_second_message_with_the_same_code_is_counted_as_sent_again(start: Start) -> None:
    """Whoever compares those that began with those that were verified counts each code once."""
    sidecar = await start()
    for _ in range(3):
        assert (await sidecar.send()).status == 202
    counts = [
        await sidecar.metric(f'sidecar_verifications_total{{outcome="{word}"}}') for word in ("started", "resent")
    ]
    assert counts == [1, 2]


async def test_a_test_number_is_told_the_same_wait_by_its_answer_and_by_its_record(start: Start) -> None:
    """Its message costs nothing, so nothing is given back; whoever asks for it is limited all the same."""
    sidecar = await start(ip_rate="1/1h")
    sent = (await sidecar.send(TEST_NUMBER)).json
    told = (await sidecar.ask("GET", f"/.sidecar/v1/verifications/{sent['id']}")).json
    assert (sent["resend_in"], told["status"]) == (3600, "sent")
    assert 3590 < told["resend_in"] <= 3600


async def test_a_message_that_every_provider_refused_gives_back_what_was_taken(start: Start) -> None:
    """The verification is failed, and the same person may ask again at once."""
    sidecar = await start(to_rate="1/1h")
    sidecar.vendor.status = 400
    sent = (await sidecar.send()).json
    async with asyncio.timeout(30):
        told = sent
        while told["status"] != "failed":
            told = (await sidecar.ask("GET", f"/.sidecar/v1/verifications/{sent['id']}")).json
    assert (sent["resend_in"], told["resend_in"]) == (3600, 0)
    sidecar.vendor.status = 202
    async with asyncio.timeout(30):
        while (await sidecar.send()).status != 202:
            pass
    assert await sidecar.vendor.code()


async def test_silence_is_not_failure(start: Start) -> None:
    """A vendor that does not answer may have sent: the message is unconfirmed and nothing is given back."""
    sidecar = await start(to_rate="1/1h", config=CONFIG.replace('attempt_timeout = "5s"', 'attempt_timeout = "500ms"'))
    sidecar.vendor.open.clear()
    sent = (await sidecar.send()).json
    path = f"/.sidecar/v1/verifications/{sent['id']}"
    async with asyncio.timeout(30):
        while (await sidecar.ask("GET", path)).json["status"] == "queued":
            pass
    reply = await sidecar.ask("GET", path)
    assert reply.json["status"] == "unconfirmed"
    assert "reason" not in reply.json
    assert (await sidecar.send()).code == "rate_limited"


async def test_the_same_idempotency_key_gets_the_same_answer_and_no_second_message(start: Start) -> None:
    """A repeat needs no second captcha; another key is another request."""
    sidecar = await start()
    key = {"Idempotency-Key": "one"}
    body = {"phone": PHONE, "captcha": await sidecar.solved()}
    first = await sidecar.ask("POST", "/send", json=body, headers=key)
    again = await sidecar.ask("POST", "/send", json=body, headers=key)
    assert first.status == again.status == 202
    assert first.body == again.body
    await sidecar.vendor.code()
    assert (await sidecar.send(OTHER, headers=key)).status == 202, "another recipient is another request"
    await sidecar.vendor.code("+8613900000002")
    assert [message["to"] for message in sidecar.vendor.messages] == [E164, "+8613900000002"]


async def test_a_repeat_is_no_second_message_though_the_process_died_after_the_first(start: Start) -> None:
    """The answer is written in the step that queues the message, so the claim that is left behind hides nothing."""
    sidecar = await start()
    key = {"Idempotency-Key": "one"}
    first = await sidecar.send(headers=key)
    idempotency = sidecar.app.gate._idempotency
    claim = idempotency.key("POST /send", E164, "one")
    assert await idempotency.claim(claim) is not None, "an answer is kept"
    await sidecar.store.execute(claim, "SET", claim, "running", "PX", 60_000)  # as a killed process leaves it
    again = await sidecar.send(headers=key)
    assert (again.status, again.json["id"]) == (202, first.json["id"])
    await sidecar.store.execute(claim, "DEL", claim)  # as it lapses
    assert (await sidecar.send(headers=key)).json["id"] == first.json["id"]
    await sidecar.vendor.code()
    assert await sidecar.metric('sidecar_verifications_total{outcome="resent"}') == 0
    assert len(sidecar.vendor.messages) == 1


async def test_a_repeat_after_a_lost_answer_of_the_store_is_no_second_message(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message may have been queued when the store does not answer: the repeat finds out."""
    sidecar = await start()
    outbox = sidecar.app.courier._outbox
    put = outbox.put_and_lease

    async def unheard(*arguments: Any) -> Leased | None:
        await put(*arguments)
        raise StoreAwayError("EVALSHA", "no answer within 1 s")

    key = {"Idempotency-Key": "one"}
    monkeypatch.setattr(outbox, "put_and_lease", unheard)
    assert (await sidecar.send(headers=key)).code == "store_unavailable"
    monkeypatch.setattr(outbox, "put_and_lease", put)
    assert (await sidecar.send(headers=key)).status == 202
    await sidecar.vendor.code()
    assert await sidecar.metric('sidecar_verifications_total{outcome="resent"}') == 0
    assert len(sidecar.vendor.messages) == 1


async def test_a_repeat_for_a_test_number_gets_the_same_answer(start: Start) -> None:
    """Nothing is queued for it, and its answer is kept all the same."""
    sidecar = await start()
    key = {"Idempotency-Key": "one"}
    first, again = [await sidecar.send(TEST_NUMBER, headers=key) for _ in range(2)]
    assert first.json == again.json
    assert await sidecar.metric('sidecar_verifications_total{outcome="resent"}') == 0


async def test_a_refused_request_does_not_use_up_its_idempotency_key(start: Start) -> None:
    """A wrong captcha token may be mended and the key used again."""
    sidecar = await start()
    key = {"Idempotency-Key": "one"}
    body = {"phone": PHONE, "captcha": "wrong"}
    assert (await sidecar.ask("POST", "/send", json=body, headers=key)).code == "captcha_failed"
    assert (await sidecar.send(headers=key)).status == 202


async def test_asking_again_sends_the_same_code_again(start: Start) -> None:
    """A late first message still works."""
    sidecar = await start()
    first = (await sidecar.send()).json
    second = (await sidecar.send()).json
    assert first["id"] == second["id"]
    await sidecar.vendor.code(count=2)
    assert len({message["code"] for message in sidecar.vendor.messages}) == 1


async def test_a_test_number_has_a_fixed_code_no_message_and_no_limit_of_its_own(start: Start) -> None:
    """`numbers.test`: CI and app-store reviewers. A mailbox may be one, in any spelling."""
    config = CONFIG.replace('"246810" }}', '"246810", "reviewer@example.com" = "135791" }}')
    total = '[limits.all]\nkey = "global"\nrate = "2/1h"\n'
    sidecar = await start(
        MAIN.replace('limits = ["ip", "to"]', 'limits = ["ip", "to", "all"]\nchannel = "auto"').replace(
            'action = "verify"', 'action = "verify"\nchannel = "auto"'
        )
        + total,
        to_rate="1/1h",
        config=config,
    )
    for mailbox in ("reviewer@example.com", "Reviewer@Example.com"):
        assert (await sidecar.send(mailbox)).status == 202
    assert (await sidecar.register("135791", "REVIEWER@example.com")).status == 200
    for _ in range(3):
        assert (await sidecar.send(TEST_NUMBER)).status == 202
    assert (await sidecar.register("000000", TEST_NUMBER)).code == "code_mismatch"
    assert (await sidecar.register("246810", TEST_NUMBER)).status == 200
    assert (await sidecar.send()).status == 202
    await sidecar.vendor.code()
    assert [message["to"] for message in sidecar.vendor.messages] == [E164]


async def test_wait_holds_the_answer_until_a_provider_accepted(start: Start) -> None:
    """The message was taken before the answer came, and the answer says so."""
    sidecar = await start(MAIN.replace('action = "send"', 'action = "send"\nwait = "5s"'))
    reply = await sidecar.send()
    assert (reply.status, reply.json["status"]) == (202, "sent")
    assert len(sidecar.vendor.messages) == 1


@pytest.mark.parametrize(
    ("word", "status", "code"),
    [
        ("number_invalid", 422, "recipient_unreachable"),
        ("number_blocked", 422, "recipient_unreachable"),
        ("number_unsupported", 422, "recipient_unreachable"),
        ("number_frequency", 429, "rate_limited"),
        ("credentials", 502, "delivery_failed"),
        ("balance", 502, "delivery_failed"),
        ("a word of its own", 502, "delivery_failed"),
    ],
)
async def test_wait_tells_why_all_refused(start: Start, word: str, status: int, code: str) -> None:
    """The number's fault, the vendor's own limit on it, or the providers' trouble: three answers."""
    sidecar = await start(MAIN.replace('action = "send"', 'action = "send"\nwait = "5s"'))
    sidecar.vendor.status, sidecar.vendor.error = 400, word
    reply = await sidecar.send(OTHER)
    assert (reply.status, reply.code) == (status, code)
    assert ("Retry-After" in reply.headers) == (code == "rate_limited")


async def test_wait_ends_when_somebody_may_have_the_message(start: Start) -> None:
    """Nobody accepted it, and nobody is asked any more: 202, which says so."""
    sidecar = await start(MAIN.replace('action = "send"', 'action = "send"\nwait = "9s"'))
    sidecar.vendor.status = 500
    reply = await asyncio.wait_for(sidecar.send(OTHER), 5)
    assert (reply.status, reply.json["status"]) == (202, "unconfirmed")


async def test_reply_and_errors_take_the_front_ends_shape(start: Start) -> None:
    """`reply` and `errors` of a route; the limit's fields stay."""
    shapes = """
reply = { status = 200, json = { code = 0, msg = "ok" } }
errors = { rate_limited = { status = 200, json = { code = 429, msg = "slow down" } } }
"""
    sidecar = await start(MAIN.replace('action = "send"', 'action = "send"' + shapes), ip_rate="1/1h")
    first, second = await sidecar.send(), await sidecar.send()
    assert (first.status, first.json) == (200, {"code": 0, "msg": "ok"})
    assert (second.status, second.json) == (200, {"code": 429, "msg": "slow down"})
    assert int(second.headers["Retry-After"]) > 0


async def test_a_body_larger_than_a_guarded_one_may_be_is_refused(start: Start) -> None:
    """body_too_large, announced or not."""
    sidecar = await start()

    async def endless() -> object:
        for _ in range(100):
            yield b"x" * 1024

    for data in (b"x" * 70_000, endless()):
        reply = await sidecar.ask("POST", "/send", data=data, headers=JSON)
        assert (reply.status, reply.code) == (413, "body_too_large")


async def test_observe_sends_what_enforce_would_refuse(start: Start) -> None:
    """`mode = "observe"`: refusals are only logged and counted."""
    sidecar = await start(MAIN.replace('action = "send"', 'action = "send"\nmode = "observe"'), to_rate="1/1h")
    for count in (1, 2):
        reply = await sidecar.ask("POST", "/send", json={"phone": PHONE, "captcha": "wrong"})
        assert reply.status == 202
        await sidecar.vendor.code(count=count)
    assert (await sidecar.ask("POST", "/send", json={"phone": PHONE})).status == 202
    assert await sidecar.metric('sidecar_observed_refusals_total{code="captcha_failed"}') == 2
    assert await sidecar.metric('sidecar_observed_refusals_total{code="captcha_required"}') == 1
    assert await sidecar.metric('sidecar_observed_refusals_total{code="rate_limited"}') == 2


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"json": {"phone": "nobody"}}, 422, "invalid_recipient"),
        ({"json": {}}, 400, "malformed_request"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed_request"),
    ],
)
async def test_observed_too_nothing_is_sent_to_nobody(
    start: Start, asked: dict[str, Any], status: int, code: str
) -> None:
    """A request that names no recipient is refused by a route that observes as by any other."""
    sidecar = await start(MAIN.replace('action = "send"', 'action = "send"\nmode = "observe"'))
    reply = await sidecar.ask("POST", "/send", **asked)
    assert (reply.status, reply.code) == (status, code)


async def test_an_observed_limit_never_refuses(start: Start) -> None:
    """A limit's own `mode = "observe"` counts beside enforcing ones."""
    config = CONFIG.replace('key = "to"', 'key = "to"\nmode = "observe"')
    sidecar = await start(config=config, to_rate="1/1h")
    for _ in range(3):
        assert (await sidecar.send()).status == 202
    assert await sidecar.metric('sidecar_observed_refusals_total{code="rate_limited"}') == 2


async def test_a_form_is_read_as_well(start: Start) -> None:
    """`form:` and `query:` and `header:` selectors."""
    route = """
[[routes]]
match = "POST /send"
action = "send"
to = "form:phone"
captcha = "altcha"
captcha_token = "header:X-Captcha"
limits = ["ip", "to"]
[[routes]]
match = "GET /send"
action = "send"
to = "query:phone"
captcha = "altcha"
captcha_token = "header:X-Captcha"
"""
    sidecar = await start(route + VERIFY)
    headers = {"X-Captcha": await sidecar.solved()}
    assert (await sidecar.ask("POST", "/send", data={"phone": "139 0000 0001"}, headers=headers)).status == 202
    headers = {"X-Captcha": await sidecar.solved()}
    assert (await sidecar.ask("GET", f"/send?phone={OTHER}", headers=headers)).status == 202
    assert await sidecar.vendor.code("+8613900000002")


@pytest.fixture
def log_again() -> Iterator[None]:
    """Leave the log as it was found: its stream is the captured one of this test."""
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []


@pytest.mark.usefixtures("log_again")
async def test_nothing_of_the_recipient_or_the_code_is_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """Logs, metrics and the store hold masked, hashed or sealed recipients only, and no code or token."""
    logs.configure("json")
    sidecar = await start()
    await sidecar.send()
    code = await sidecar.vendor.code()
    assert (await sidecar.register("000000" if code != "000000" else "111111")).code == "code_mismatch"
    assert (await sidecar.register(code)).status == 200
    sidecar.vendor.status = 400
    await sidecar.send(OTHER)
    await sidecar.vendor.wait_for(lambda: sidecar.vendor.asked == 2)
    logs.flush()
    logged = capfd.readouterr().err + (await sidecar.admin("/metrics")).body.decode()
    assert '"outcome": "queued"' in logged
    for private in (PHONE, OTHER, code):
        assert private not in logged
    for key in await sidecar.store.execute(None, "KEYS", "*"):
        for private in (PHONE, OTHER, code):
            assert private.encode() not in key


async def test_a_client_that_leaves_changes_nothing(start: Start) -> None:
    """What was begun is finished: a bucket is spent, so the message is queued, though nobody waits for the answer."""
    sidecar = await start(to_rate="1/1h")
    outbox, reached, go_on = sidecar.app.courier._outbox, asyncio.Event(), asyncio.Event()
    put = outbox.put_and_lease

    async def slowly(entry: Entry, answered: Answered | None = None) -> Leased | None:
        reached.set()
        await go_on.wait()
        return await put(entry, answered)

    outbox.put_and_lease = slowly  # type: ignore[method-assign] # a slow store, between spending and queueing
    leaving = asyncio.create_task(sidecar.send())
    await reached.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    async with asyncio.timeout(30):
        while not sidecar.listening.is_idle:
            await asyncio.sleep(0)
    go_on.set()
    assert await sidecar.vendor.code()
    assert (await sidecar.send()).code == "rate_limited"


async def test_another_spelling_of_a_mailbox_has_no_bucket_of_its_own(start: Start) -> None:
    """Nearly every mail server takes Ann@ for ann@; the address that upstream gets stays as it was typed."""
    sidecar = await start(SEND.replace('action = "send"', 'action = "send"\nchannel = "email"'), to_rate="1/1h")
    assert (await sidecar.send("Ann@example.com")).status == 202
    assert (await sidecar.send("aNN@EXAMPLE.com")).code == "rate_limited"
    await sidecar.vendor.wait_for(lambda: bool(sidecar.vendor.messages))
    assert [message["to"] for message in sidecar.vendor.messages] == ["Ann@example.com"]
