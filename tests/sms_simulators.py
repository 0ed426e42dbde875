"""SMS vendors on loopback that check what they get as the real ones do, and answer what is wrong in their words.

Each reads the request off the wire and works the signature out anew, from the description, with nothing of ours.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from aiohttp import web

SECRET = "s3cr3t-of-the-account"


@dataclass
class Simulator:
    """What was sent through it, as (number, what the code travelled in)."""

    url: str = ""
    sent: list[tuple[str, Any]] = field(default_factory=list)
    nonces: set[str] = field(default_factory=set)


Handle = Callable[[Simulator, web.BaseRequest], Awaitable[web.Response]]


@asynccontextmanager
async def simulated(kind: str) -> AsyncIterator[Simulator]:
    """Yield the simulated vendor of a kind."""
    it = Simulator()
    runner = web.ServerRunner(web.Server(lambda request: VENDORS[kind](it, request)), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    it.url = f"http://{host}:{port}"
    try:
        yield it
    finally:
        await runner.cleanup()


def _json(status: int, document: Any) -> web.Response:
    return web.Response(status=status, text=json.dumps(document), content_type="application/json")


def _hex(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


# Alibaba…


def _acs3_fault(it: Simulator, request: web.BaseRequest, body: bytes) -> str:
    """What the gateway finds wrong, in its own words; "" for nothing."""
    fields = {name.lower(): value for name, value in request.headers.items()}
    head, _, rest = fields.get("authorization", "").partition(" ")
    said = dict(part.split("=", 1) for part in rest.split(",")) if rest else {}
    if head != "ACS3-HMAC-SHA256" or said.get("Credential") != "AKID":
        return "InvalidAccessKeyId.NotFound"
    sent_at = time.strptime(fields["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ")
    if abs(time.mktime(sent_at) - time.mktime(time.gmtime())) > 900:
        return "InvalidTimeStamp.Expired"
    names = said["SignedHeaders"].split(";")
    must = {"host"} | {name for name in fields if name.startswith("x-acs-") or name == "content-type"}
    # Any spelling of the query will do: it is decoded, and spelt anew.
    pairs = sorted(parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True))
    query = "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)
    lines = "".join(f"{name}:{fields[name].strip()}\n" for name in names)
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join([request.method, "/", query, lines, said["SignedHeaders"], digest])
    text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    right = fields["x-acs-content-sha256"] == digest and _hex(SECRET.encode(), text) == said["Signature"]
    if not right or not must <= set(names) or names != sorted(names):
        return "SignatureDoesNotMatch"
    if fields["x-acs-signature-nonce"] in it.nonces:
        return "SignatureNonceUsed"
    it.nonces.add(fields["x-acs-signature-nonce"])
    return ""


async def _aliyun(it: Simulator, request: web.BaseRequest) -> web.Response:
    if fault := _acs3_fault(it, request, await request.read()):
        return _json(400, {"Code": fault, "Message": "m", "RequestId": "R", "HostId": request.host})
    said = dict(parse_qsl(request.raw_path.partition("?")[2]))
    if (request.headers["x-acs-action"], request.headers["x-acs-version"]) != ("SendSms", "2017-05-25"):
        return _json(404, {"Code": "InvalidAction.NotFound"})
    it.sent.append((said["PhoneNumbers"], json.loads(said["TemplateParam"])))
    return _json(200, {"Code": "OK", "Message": "OK", "BizId": "9006^0", "RequestId": "R"})


async def _aliyun_intl(it: Simulator, request: web.BaseRequest) -> web.Response:
    if fault := _acs3_fault(it, request, await request.read()):
        return _json(400, {"Code": fault, "Message": "m", "RequestId": "R", "HostId": request.host})
    said = dict(parse_qsl(request.raw_path.partition("?")[2]))
    it.sent.append((said["To"], said["Message"]))
    return _json(200, {"ResponseCode": "OK", "ResponseDescription": "OK", "MessageId": "1008", "To": said["To"]})


# Tencent…


async def _tencent(it: Simulator, request: web.BaseRequest) -> web.Response:
    def fault(code: str) -> web.Response:
        return _json(200, {"Response": {"Error": {"Code": code, "Message": "m"}, "RequestId": "R"}})

    body = await request.read()
    stamp = request.headers["X-TC-Timestamp"]
    if abs(int(stamp) - time.time()) > 300:
        return fault("AuthFailure.SignatureExpire")
    day = time.strftime("%Y-%m-%d", time.gmtime(int(stamp)))
    scope = f"{day}/sms/tc3_request"
    head = f"content-type:{request.headers['Content-Type']}\nhost:{request.headers['Host']}\n"
    canonical = "\n".join(
        [request.method, request.path, "", head, "content-type;host", hashlib.sha256(body).hexdigest()]
    )
    text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"TC3{SECRET}".encode()
    for part in (day, "sms", "tc3_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    right = f"TC3-HMAC-SHA256 Credential=AKID/{scope}, SignedHeaders=content-type;host, Signature={_hex(key, text)}"
    if request.headers["Authorization"] != right:
        return fault("AuthFailure.SignatureFailure")
    if not request.headers.get("X-TC-Region"):
        return fault("MissingParameter")
    said = json.loads(body)
    [number] = said["PhoneNumberSet"]
    it.sent.append((number, said["TemplateParamSet"]))
    accepted = {"SerialNo": "5000:1", "PhoneNumber": number, "Fee": 1, "Code": "Ok", "Message": "m", "IsoCode": "CN"}
    return _json(200, {"Response": {"SendStatusSet": [accepted], "RequestId": "R"}})


# Juhe…


async def _juhe(it: Simulator, request: web.BaseRequest) -> web.Response:
    said = dict(parse_qsl((await request.read()).decode()))
    if request.path != "/sms/send" or said.get("key") != SECRET:
        return _json(200, {"reason": "错误的请求KEY", "result": None, "error_code": 10001})
    it.sent.append((said["mobile"], json.loads(said["vars"])))
    return _json(200, {"reason": "操作成功", "result": {"sid": "2029", "fee": 1, "count": 1}, "error_code": 0})


# Qiniu…


async def _qiniu(it: Simulator, request: web.BaseRequest) -> web.Response:
    body = await request.read()
    head = f"{request.method} {request.raw_path}\nHost: {request.headers['Host']}\n"
    head += f"Content-Type: {request.headers['Content-Type']}\n"
    for name in sorted(name for name in request.headers if name.lower().startswith("x-qiniu-")):
        head += f"{name.title()}: {request.headers[name]}\n"
    mac = hmac.new(SECRET.encode(), f"{head}\n".encode() + body, hashlib.sha1).digest()
    if request.headers["Authorization"] != f"Qiniu AKID:{base64.urlsafe_b64encode(mac).decode()}":
        return _json(401, {"error": "BadToken", "message": "bad token", "request_id": "q"})
    said = json.loads(body)
    it.sent.append((said["mobile"], said["parameters"]))
    return _json(200, {"message_id": "3411"})


# Twilio…


async def _twilio(it: Simulator, request: web.BaseRequest) -> web.Response:
    right = base64.b64encode(f"ACtest:{SECRET}".encode()).decode()
    if request.headers["Authorization"] != f"Basic {right}":
        return _json(401, {"code": 20003, "message": "Authenticate", "status": 401})
    said = dict(parse_qsl((await request.read()).decode()))
    it.sent.append((said["To"], said["Body"]))
    return _json(201, {"sid": "SM1", "status": "queued", "error_code": None})


VENDORS: dict[str, Handle] = {
    "aliyun": _aliyun,
    "aliyun-intl": _aliyun_intl,
    "tencent": _tencent,
    "juhe": _juhe,
    "qiniu": _qiniu,
    "twilio": _twilio,
}
