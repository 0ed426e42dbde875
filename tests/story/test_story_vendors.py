"""Whole stories through real kinds: what a vendor's answer does to a message, and a code that comes by mail."""

import email
import re

import jwt
from mail_server import mail_server
from sms_simulators import SECRET, simulated
from telling import CONFIG, SEND, VERIFY, Start

# Held until a provider took the message.
HELD = SEND.replace('action = "send"', 'action = "send"\nwait = "10s"')
# The common configuration's own provider and rule, for which these stories have others.
HEAD, _ = CONFIG.split("[providers.hook]")
TENCENT = """
[providers.tencent]
kind = "tencent"
secret_id = "AKID"
secret_key = "{secret}"
app_id = "1400000000"
sign_name = "示例"
template = "1110"
endpoint = "{url}"
"""
ALIYUN = """
[providers.aliyun]
kind = "aliyun"
access_key_id = "AKID"
access_key_secret = "{secret}"
sign_name = "示例"
template = {{ zh = "SMS_1", en = "SMS_2" }}
endpoint = "{url}"
"""


async def test_a_vendor_that_refuses_our_keys_is_followed_by_one_that_takes_them(start: Start) -> None:
    """An HTTP 200 that says no is a no: the next provider sends the code, and it registers."""
    async with simulated("tencent") as tencent, simulated("aliyun") as aliyun:
        providers = TENCENT.format(secret="wrong", url=tencent.url) + ALIYUN.format(secret=SECRET, url=aliyun.url)
        rule = '[[delivery]]\nproviders = ["tencent", "aliyun"]\nswitch_after = "5s"\ndeadline = "10s"\n'
        sidecar = await start(providers + rule + HELD + VERIFY, config=HEAD)
        assert (await sidecar.send()).status == 202
        [(number, params)] = aliyun.sent
        assert (number, tencent.sent) == ("13900000001", [])
        assert (await sidecar.register(params["code"])).status == 200
        assert await sidecar.metric('sidecar_attempts_total{outcome="rejected",provider="tencent"}') == 1
        assert await sidecar.metric('sidecar_attempts_total{outcome="accepted",provider="aliyun"}') == 1


async def test_a_code_comes_by_mail(start: Start) -> None:
    """A recipient with an @ gets a mail; upstream learns the address."""
    async with mail_server() as mail:
        smtp = f'[providers.mail]\nkind = "smtp"\nurl = "{mail.url}"\nfrom = "Example <no-reply@example.com>"\n'
        rule = '[[delivery]]\nproviders = ["mail"]\n'
        routes = (HELD + VERIFY).replace('to = "json:phone"', 'to = "json:phone"\nchannel = "auto"')
        sidecar = await start(smtp + rule + routes, config=HEAD)
        assert (await sidecar.send("ann@example.org")).status == 202
        [raw] = mail.mails
        text = email.message_from_bytes(raw).get_payload(decode=True)
        assert isinstance(text, bytes)
        [code] = re.findall(r"\b[0-9]{6}\b", text.decode())
        assert (await sidecar.register(code, "ann@example.org")).status == 200
        token = sidecar.upstream.requests[-1].value(b"X-Verified-Identity").decode()
        said = jwt.decode(token, options={"verify_signature": False})
        assert (said["email"], said["email_verified"], said["amr"]) == ("ann@example.org", True, ["email"])
