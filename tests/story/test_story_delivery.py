"""How a message is delivered, through the whole product: the command `send`, rules, receipts."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from forward_proxy import forward_proxy
from telling import CONFIG as WHOLE
from telling import Reply, Sidecar, Start
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]
from vendors import Vendor, closed_port, vendor

from sidecar import cli
from sidecar.delivery.outbox import Entry, Outbox, Past
from sidecar.store.client import Store

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
        return await self._main("send", str(self._path), *options)

    async def run(self, command: str, verb: str, *options: str) -> tuple[int, str, str]:
        return await self._main(command, verb, str(self._path), *options)

    async def _main(self, *words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(cli.main, list(words))
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


# Dead letters…


async def test_dead_letters_are_listed_sent_again_and_dropped(sending: Sending, store_url: str) -> None:
    sending.urls(closed_port(), closed_port())
    store = Store(store_url)
    outbox = Outbox(store)
    await store.execute(store.names.outbox(), "DEL", store.names.outbox(), store.names.dead())
    try:
        dies_at = time.time() + 300
        past = Past("retry", "m-1", refused={"first": "balance"})
        for reason, expires_at in (("first: throttled (http_429)", dies_at), ("unconfirmed: first: http_500", 1.0)):
            await outbox.put(Entry("v-1", b"sealed", "en", ("1:a",), expires_at, "r-1", past))
            [leased] = await outbox.lease(1, 1.0) or await outbox.lease(1, 1.0)
            await outbox.bury(leased.id, reason)
        code, out, _ = await sending.run("dead", "list")
        shown = [line.split("  ") for line in out.splitlines()]
        assert (code, [line[2:] for line in shown]) == (
            0,
            [["v-1", "first: throttled (http_429)"], ["v-1", "unconfirmed: first: http_500"]],
        )
        assert (await sending.run("dead", "redrive"))[0] == 2
        assert (await sending.run("dead", "drop", "1-1", "--all"))[0] == 2
        assert (await sending.run("dead", "redrive", shown[0][0]))[:2] == (0, f"{shown[0][0]}  queued again\n")
        assert (await sending.run("dead", "redrive", shown[0][0]))[:2] == (1, f"{shown[0][0]}  not there\n")
        [again] = await outbox.lease(1, 1.0)
        assert again == Entry("v-1", b"sealed", "en", (), dies_at, "r-1"), "as it was at first, and it costs nothing"
        code, out, _ = await sending.run("dead", "redrive", "--all")
        assert (code, "its code has expired" in out) == (1, True)
        assert (await sending.run("dead", "drop", "--all"))[:2] == (0, f"{shown[1][0]}  dropped\n")
        assert await sending.run("dead", "list") == (0, "", "dead: there is no dead letter\n")
    finally:
        await store.execute(store.names.outbox(), "DEL", store.names.outbox(), store.names.dead())
        await store.close()


# Through a proxy…

PROXIED = """
[outbound]
proxy = "http://ann:s3cr3t@127.0.0.1:{port}"
[providers.far]
kind = "webhook"
url = "http://sms.vendor.example/hook"
secret = "s"
"""


async def test_message_goes_through_the_configured_proxy(start: Start) -> None:
    """The proxy alone knows where the vendor is."""
    async with vendor() as far, forward_proxy(far.url) as proxy:
        far.answers(200, "")
        config = WHOLE.replace('providers = ["hook"]', 'providers = ["far"]') + PROXIED.format(port=proxy.port)
        sidecar = await start("", config=config)
        body = {"to": PHONE, "captcha": await sidecar.solved()}
        begun = await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)
        assert json.loads((await far.arrival()).body)["to"] == PHONE
        while (await status(sidecar, begun.json["id"])) != "sent":
            pass
    assert proxy.requests == [b"POST http://sms.vendor.example/hook HTTP/1.1"]
    assert proxy.asked[0].value(b"proxy-authorization").startswith(b"Basic ")


# Receipts…

RECEIPTS = """
[server]
state_dir = "{{state}}"
drain = "50ms"
secret = "story-secret-story-secret-story-secret"
public_url = "https://www.example.com"
[upstream]
url = "{{upstream}}"
[captcha.altcha]
kind = "altcha"
cost = 1
max_counter = 10
[limits.ip]
key = "ip"
rate = "{{ip_rate}}"
[limits.to]
key = "to"
rate = "{{to_rate}}"
[providers.twilio]
kind = "twilio"
account_sid = "AC00000000000000000000000000000000"
auth_token = "{token}"
from = "+15005550006"
endpoint = "{url}"
receipt_token = "{path_token}"
[providers.hook]
kind = "webhook"
url = "{{vendor}}/hook"
secret = "s"
[[delivery]]
providers = ["twilio", "hook"]
confirm_within = "60s"
"""
AUTH_TOKEN = "twilio-auth-token-of-the-story"
SID = "SM00000000000000000000000000000001"
PATH = "/.sidecar/receipts/twilio"


class Twilio:
    """A sidecar that sent one message through a simulated Twilio, and what Twilio then posts."""

    def __init__(self, sidecar: Sidecar, asked: Any) -> None:
        self.sidecar = sidecar
        self.callback = dict(parse_qsl(asked.body.decode())).get("StatusCallback", "")
        self._path = self.callback.removeprefix("https://www.example.com")

    def forget_which(self) -> None:
        """Report to the address alone, without what names our message in it."""
        self._path = self._path.partition("?")[0]

    async def post(self, status: str, sid: str = SID, key: str = AUTH_TOKEN, path: str = "") -> Reply:
        form = {"MessageSid": sid, "MessageStatus": status, "To": PHONE, "AccountSid": "AC0"}
        signature = RequestValidator(key).compute_signature(f"https://www.example.com{self._path}", form)
        headers = {"X-Twilio-Signature": signature} if key else {}
        return await self.sidecar.ask("POST", path or self._path, data=form, headers=headers)


@asynccontextmanager
async def sent_by_twilio(start: Start, path_token: str = "") -> AsyncIterator[tuple[Twilio, str]]:
    """Yield Twilio and the id of the verification whose message it took."""
    async with vendor() as twilio:
        twilio.answers(201, json.dumps({"sid": SID, "status": "queued"}))
        config = RECEIPTS.format(token=AUTH_TOKEN, url=twilio.url, path_token=path_token)
        sidecar = await start("", config=config)
        body = {"to": PHONE, "captcha": await sidecar.solved()}
        begun = await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)
        verification_id = begun.json["id"]
        while (await status(sidecar, verification_id)) != "sent":
            pass
        yield Twilio(sidecar, twilio.asked[0]), verification_id


async def status(sidecar: Sidecar, verification_id: str) -> str:
    return str((await sidecar.ask("GET", f"/.sidecar/v1/verifications/{verification_id}")).json["status"])


async def test_signed_receipt_moves_the_verification(start: Start) -> None:
    async with sent_by_twilio(start) as (twilio, verification_id):
        address, _, which = twilio.callback.partition("?")
        assert address == f"https://www.example.com{PATH}"
        assert which.startswith(f"ref={verification_id}_")
        reply = await twilio.post("delivered")
        assert (reply.status, reply.body) == (200, b"")
        assert await status(twilio.sidecar, verification_id) == "delivered"
        assert await twilio.sidecar.metric('sidecar_receipts_total{provider="twilio",state="delivered"}') == 1


async def test_receipt_late_repeated_or_out_of_order_does_no_harm(start: Start) -> None:
    async with sent_by_twilio(start) as (twilio, verification_id):
        for word in ("delivered", "delivered", "sent", "undelivered", "queued"):
            assert (await twilio.post(word)).status == 200
        assert await status(twilio.sidecar, verification_id) == "delivered"
        assert await twilio.sidecar.metric('sidecar_receipts_total{provider="twilio",state="delivered"}') == 1
        assert await twilio.sidecar.metric('sidecar_receipts_total{provider="twilio",state="undeliverable"}') == 0


async def test_receipt_of_a_message_that_we_did_not_send_moves_nothing(start: Start) -> None:
    async with sent_by_twilio(start) as (twilio, verification_id):
        twilio.forget_which()
        assert (await twilio.post("delivered", sid="SM99999999999999999999999999999999")).status == 200
        assert await status(twilio.sidecar, verification_id) == "sent"


async def test_undeliverable_message_goes_to_the_next_provider_at_once(start: Start) -> None:
    """With `confirm_within`, nobody waits for a confirmation that can no longer come."""
    async with sent_by_twilio(start) as (twilio, verification_id):
        assert (await twilio.post("undelivered")).status == 200
        await twilio.sidecar.vendor.wait_for(lambda: len(twilio.sidecar.vendor.messages) == 1)
        assert twilio.sidecar.vendor.messages[0]["to"] == PHONE
        while await status(twilio.sidecar, verification_id) != "sent":
            pass


@pytest.mark.parametrize("key", ["", "another-token"])
async def test_receipt_that_twilio_did_not_sign_is_refused(start: Start, key: str) -> None:
    async with sent_by_twilio(start) as (twilio, verification_id):
        assert (await twilio.post("delivered", key=key)).code == "not_found"
        assert await status(twilio.sidecar, verification_id) == "sent"


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", f"{PATH}/wrong-wrong-wrong", "/.sidecar/receipts/hook", f"{PATH}x"])
async def test_receipt_on_another_path_is_refused(start: Start, path: str) -> None:
    """Where there is a token, no token and a wrong one find nothing, signature or not."""
    async with sent_by_twilio(start, "the-secret-end-of-a-path") as (twilio, verification_id):
        assert "/the-secret-end-of-a-path?" in twilio.callback
        assert (await twilio.post("delivered", path=path)).code == "not_found"
        assert await status(twilio.sidecar, verification_id) == "sent"
        assert (await twilio.post("delivered")).status == 200
        assert await status(twilio.sidecar, verification_id) == "delivered"


@pytest.mark.parametrize("word", ["delivered", "failed"])
async def test_receipt_that_comes_before_twilios_answer_counts(start: Start, word: str) -> None:
    """Twilio calls back while its 201 is on its way: delivered is told, failed starts the next provider at once."""
    async with vendor() as twilio:
        config = RECEIPTS.format(token=AUTH_TOKEN, url=twilio.url, path_token="")
        sidecar = await start("", config=config.replace('confirm_within = "60s"', 'switch_after = "4s"'))

        async def calls_back_first(it: Vendor) -> web.Response:
            assert (await Twilio(sidecar, it.asked[0]).post(word)).status == 200
            return web.json_response({"sid": SID, "status": "queued"}, status=201)

        twilio.behave = calls_back_first
        body = {"to": PHONE, "captcha": await sidecar.solved()}
        verification_id = (await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)).json["id"]
        came_to = "delivered" if word == "delivered" else "sent"
        async with asyncio.timeout(30):
            while (told := await status(sidecar, verification_id)) != came_to:
                assert told in {"queued", "sent"}
        assert len(sidecar.vendor.messages) == (0 if word == "delivered" else 1)


@pytest.mark.parametrize("is_known", [True, False])
async def test_push_that_names_our_id_moves_the_message_whose_answer_was_lost(start: Start, is_known: bool) -> None:
    """Aliyun gives our `out_id` back; the answer with its own id never came. Only an id that we sent moves anything."""
    table, _, receipts = UNSIGNED["aliyun"]
    async with vendor() as aliyun:
        aliyun.resets()
        more = (
            f'endpoint = "{aliyun.url}"\nreceipt_token = "a-long-secret-path-token"\n[[delivery]]\nproviders = ["it"]\n'
        )
        head = WHOLE.split("[providers.hook]", maxsplit=1)[0]
        sidecar = await start(f'[providers.it]\nkind = "aliyun"\n{table}{more}', config=head)
        body = {"to": PHONE, "captcha": await sidecar.solved()}
        verification_id = (await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)).json["id"]
        async with asyncio.timeout(30):
            while (await status(sidecar, verification_id)) != "unconfirmed":
                pass
        out_id = dict(parse_qsl(aliyun.asked[0].target.partition("?")[2]))["OutId"]
        push = cast("list[dict[str, Any]]", receipts)[0] | {
            "biz_id": "never-heard-of",
            "out_id": out_id if is_known else f"{verification_id}_1-0",
        }
        reply = await sidecar.ask("POST", "/.sidecar/receipts/it/a-long-secret-path-token", json=[push])
        assert reply.status == 200
        assert await status(sidecar, verification_id) == ("delivered" if is_known else "unconfirmed")


UNSIGNED = {
    "aliyun": (
        'access_key_id = "AKID"\naccess_key_secret = "s"\nsign_name = "示例"\ntemplate = "SMS_1"\n',
        {"Code": "OK", "Message": "OK", "BizId": "biz-1^0", "RequestId": "R"},
        [{"phone_number": PHONE, "success": True, "err_code": "DELIVERED", "biz_id": "biz-1^0", "out_id": ""}],
    ),
    "tencent": (
        'secret_id = "AKID"\nsecret_key = "s"\napp_id = "1400000000"\nsign_name = "示例"\ntemplate = "1110"\n',
        {
            "Response": {
                "SendStatusSet": [{"SerialNo": "sid-1", "PhoneNumber": "+8613900000001", "Fee": 1, "Code": "Ok"}],
                "RequestId": "R",
            }
        },
        [{"nationcode": "86", "mobile": PHONE, "report_status": "SUCCESS", "errmsg": "DELIVRD", "sid": "sid-1"}],
    ),
    "qiniu": (
        'access_key = "AKID"\nsecret_key = "s"\ntemplate = "1212"\n',
        {"message_id": "10086"},
        {"items": [{"mobile": PHONE, "message_id": "10086", "status": "DELIVRD", "delivrd_at": 1772600767}]},
    ),
}


# What each vendor wants to hear, or it sends the same receipt again.
UNSIGNED_REPLIES = {"aliyun": b'{"code":0,"msg":"OK"}', "tencent": b'{"result":0,"errmsg":"OK"}', "qiniu": b""}


@pytest.mark.parametrize("kind", UNSIGNED)
async def test_receipt_of_a_vendor_that_signs_nothing_comes_on_a_secret_path(start: Start, kind: str) -> None:
    """With the token the verification is delivered; without it, or with another, there is nothing."""
    table, accepted, receipt = UNSIGNED[kind]
    async with vendor() as simulated:
        simulated.answers(200, json.dumps(accepted))
        more = f'endpoint = "{simulated.url}"\nreceipt_token = "a-long-secret-path-token"\n'
        rule = '[[delivery]]\nproviders = ["it"]\nconfirm_within = "60s"\n'
        head = WHOLE.split("[providers.hook]", maxsplit=1)[0]
        sidecar = await start(f'[providers.it]\nkind = "{kind}"\n{table}{more}{rule}', config=head)
        body = {"to": PHONE, "captcha": await sidecar.solved()}
        verification_id = (await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)).json["id"]
        async with asyncio.timeout(30):
            while (await status(sidecar, verification_id)) != "sent":
                pass
        for path in ("", "/another-token", "/a-long-secret-path-toke"):
            assert (await sidecar.ask("POST", f"/.sidecar/receipts/it{path}", json=receipt)).status == 404
        assert await status(sidecar, verification_id) == "sent"
        reply = await sidecar.ask("POST", "/.sidecar/receipts/it/a-long-secret-path-token", json=receipt)
        assert (reply.status, reply.body) == (200, UNSIGNED_REPLIES[kind])
        assert await status(sidecar, verification_id) == "delivered"
