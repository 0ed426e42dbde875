"""Verifiers as their vendors' pages describe them: they check what they are sent, and refuse as the vendor does.

Each says what a [captcha.NAME] table for it holds (`table`) and what its widget would hand out (`token`). It keeps
what it was asked (`asked`), takes a token once, and can be told to lose its answers, to say nothing, or something else.
"""

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Call:
    """One request as a vendor's front end gets it."""

    method: str
    path: str
    query: dict[str, str]
    fields: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        assert self.fields["content-type"] == "application/x-www-form-urlencoded"
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))


@dataclass
class Simulator:
    """What all of them have. `genuine`: the names of tokens that the vendor handed out."""

    kind: ClassVar[str]

    genuine: set[str] = field(default_factory=set)
    spent: dict[str, str] = field(default_factory=dict)  # name -> the idempotency key that spent it
    asked: list[dict[str, Any]] = field(default_factory=list)
    lose: int = 0  # answers to lose after judging
    silent: bool = False
    answer: web.Response | None = None  # instead of any judging
    endpoint: str = ""  # where it listens, for who asks

    @property
    def table(self) -> dict[str, Any]:
        """What a table for it holds, but for `kind` and `endpoint`."""
        raise NotImplementedError

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        """Keys of somebody else's account, which the vendor takes for our mistake."""
        raise NotImplementedError

    @property
    def yes(self) -> bytes:
        """A pass, but for its last brace."""
        raise NotImplementedError

    def token(self, name: str) -> str:
        """What the widget gives for a token of this name."""
        return name

    def content(self, call: Call) -> dict[str, Any]:
        """What was asked, as the test reads it."""
        return call.form

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        raise NotImplementedError

    def uses(self, name: str, key: str = "") -> bool:
        """Take a token once: True for the first time, or the same key again."""
        key = key or uuid.uuid4().hex
        return self.spent.setdefault(name, key) == key


@dataclass
class _SiteverifySimulator(Simulator):
    secret: str = "0x-simulated-secret"
    hostname: str = "signup.example"
    action: str = "signup"

    spent_word: ClassVar[str] = "timeout-or-duplicate"

    @property
    def table(self) -> dict[str, Any]:
        return {"secret": "0x-simulated-secret", "hostname": "signup.example"}

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"secret": "another"}]

    @property
    def yes(self) -> bytes:
        return b'{"success": true, "hostname": "signup.example", "action": "signup", "error-codes": []'

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        form = call.form
        token = form.get("response")
        if "secret" not in form:
            return self._no("missing-input-secret")
        if form["secret"] != self.secret:
            return self._no("invalid-input-secret")
        if not token:
            return self._no("missing-input-response")
        if word := self.fault(form):
            return self._no(word)
        if token not in self.genuine:
            return self._no("invalid-input-response")
        if not self.uses(token, form.get("idempotency_key", "")):
            return self._no(self.spent_word)
        more = self.more()
        said = {"success": True, "error-codes": [], "challenge_ts": "2026-03-04T05:06:07Z", "hostname": self.hostname}
        return 200, said | more

    def fault(self, form: dict[str, str]) -> str:
        return ""

    def more(self) -> dict[str, Any]:
        return {}

    def _no(self, code: str) -> tuple[int, dict[str, Any]]:
        return 200, {"success": False, "error-codes": [code]}


@dataclass
class TurnstileSimulator(_SiteverifySimulator):
    kind: ClassVar[str] = "turnstile"

    @property
    def table(self) -> dict[str, Any]:
        return {"secret": "0x-simulated-secret", "hostname": "signup.example", "action": "signup"}

    def fault(self, form: dict[str, str]) -> str:
        try:
            uuid.UUID(form.get("idempotency_key", ""))
        except ValueError:
            return "bad-request"
        return ""

    def more(self) -> dict[str, Any]:
        return {"action": self.action}


@dataclass
class HcaptchaSimulator(_SiteverifySimulator):
    kind: ClassVar[str] = "hcaptcha"
    spent_word: ClassVar[str] = "already-seen-response"

    site_key: str = "10000000-simulated"

    @property
    def table(self) -> dict[str, Any]:
        return {"secret": "0x-simulated-secret", "hostname": "signup.example", "site_key": "10000000-simulated"}

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"secret": "another"}, {"site_key": "another"}]

    def fault(self, form: dict[str, str]) -> str:
        return "" if form.get("sitekey", self.site_key) == self.site_key else "sitekey-secret-mismatch"


@dataclass
class RecaptchaSimulator(_SiteverifySimulator):
    """Version 2, or 3 with a `score`."""

    kind: ClassVar[str] = "recaptcha"

    score: float | None = None

    @property
    def table(self) -> dict[str, Any]:
        base = {"secret": "0x-simulated-secret", "hostname": "signup.example"}
        return base if self.score is None else base | {"version": "v3", "action": "signup", "min_score": 0.6}

    @property
    def yes(self) -> bytes:
        return super().yes if self.score is None else super().yes + b', "score": 0.9'

    def more(self) -> dict[str, Any]:
        return {} if self.score is None else {"action": self.action, "score": self.score}


@dataclass
class RecaptchaV3Simulator(RecaptchaSimulator):
    score: float | None = 0.7


@dataclass
class AssessmentSimulator(Simulator):
    """ReCAPTCHA Enterprise."""

    kind: ClassVar[str] = "recaptcha"

    hostname: str = "signup.example"
    action: str = "signup"
    score: float = 0.7

    @property
    def table(self) -> dict[str, Any]:
        return {
            "version": "enterprise",
            "project": "my-shop-1234",
            "api_key": "simulated-api-key",
            "site_key": "6Lsimulated",
            "hostname": "signup.example",
            "action": "signup",
            "min_score": 0.6,
        }

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"api_key": "another"}, {"project": "another"}]

    @property
    def yes(self) -> bytes:
        token = b'"tokenProperties": {"valid": true, "hostname": "signup.example", "action": "signup"}'
        return b'{%b, "riskAnalysis": {"score": 0.9}' % token

    def content(self, call: Call) -> dict[str, Any]:
        return dict(json.loads(call.body)["event"])

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        event = json.loads(call.body)["event"]
        if call.fields.get("x-goog-api-key") != "simulated-api-key":
            return 400, {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
        if not call.path.endswith("/v1/projects/my-shop-1234/assessments"):
            return 403, {"error": {"code": 403, "message": "m", "status": "PERMISSION_DENIED"}}
        properties: dict[str, Any] = {"valid": False, "invalidReason": "MALFORMED"}
        if event["siteKey"] == "6Lsimulated" and event["token"] in self.genuine:
            if self.uses(event["token"]):
                properties = {"valid": True, "hostname": self.hostname, "action": self.action}
            else:
                properties = {"valid": False, "invalidReason": "DUPE"}
        risk = {"score": self.score, "reasons": []} if properties["valid"] else {}
        return 200, {"event": event, "tokenProperties": properties, "riskAnalysis": risk, "name": "projects/1/a/2"}


@dataclass
class YidunSimulator(Simulator):
    kind: ClassVar[str] = "yidun"

    captcha_id: str = "a" * 32
    secret_id: str = "b" * 32
    secret_key: str = "simulated-secret-key"
    nonces: set[str] = field(default_factory=set)
    fallback: str = "the-same-token-for-everybody"  # that its script hands out while the vendor is away

    @property
    def table(self) -> dict[str, Any]:
        return {"captcha_id": "a" * 32, "secret_id": "b" * 32, "secret_key": "simulated-secret-key"}

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"secret_key": "another"}, {"captcha_id": "another"}]

    @property
    def yes(self) -> bytes:
        return b'{"result": true, "error": 0'

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        return 200, self._judge(call.form)

    def _judge(self, form: dict[str, str]) -> dict[str, Any]:
        wanted = {"captchaId", "validate", "user", "secretId", "version", "timestamp", "nonce", "signature"}
        if set(form) != wanted or not 0 < len(form["nonce"]) <= 32 or form["nonce"] in self.nonces:
            return {"error": 419, "msg": "param error"}
        if form["captchaId"] != self.captcha_id or form["secretId"] != self.secret_id:
            return {"error": 419, "msg": "param error"}
        if form["version"] != "v2":
            return {"error": 421, "msg": "version error"}
        if abs(int(form["timestamp"]) - time.time() * 1000) > 60_000:
            return {"error": 419, "msg": "param error"}
        signed = sorted((name, value) for name, value in form.items() if name != "signature")
        digest = hashlib.md5()
        for name, value in signed:
            digest.update(name.encode() + value.encode())
        digest.update(self.secret_key.encode())
        if digest.hexdigest() != form["signature"]:
            return {"error": 415, "msg": "signature error"}
        self.nonces.add(form["nonce"])
        is_fallback = form["validate"] == self.fallback
        good = is_fallback or (form["validate"] in self.genuine and self.uses(form["validate"]))
        return {
            "result": good,
            "error": 0,
            "msg": "ok",
            "phone": "",
            "extraData": "",
            "captchaType": 2,
            "token": "t",
            "sdkReduce": is_fallback,
        }


@dataclass
class GeetestSimulator(Simulator):
    kind: ClassVar[str] = "geetest"

    captcha_id: str = "647f5ed2simulated"
    captcha_key: str = "b09a7aafsimulated"

    @property
    def table(self) -> dict[str, Any]:
        return {"captcha_id": "647f5ed2simulated", "captcha_key": "b09a7aafsimulated"}

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"captcha_key": "another"}]

    @property
    def yes(self) -> bytes:
        return b'{"status": "success", "result": "success", "reason": ""'

    def token(self, name: str) -> str:
        return json.dumps(self.validated(name))

    def validated(self, name: str) -> dict[str, str]:
        """What getValidate() gives."""
        return {
            "captcha_id": self.captcha_id,
            "lot_number": name,
            "pass_token": hashlib.sha256(name.encode()).hexdigest(),
            "gen_time": "1772600767",
            "captcha_output": "oU+/=" + name,
        }

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        form, lot = call.form, call.form["lot_number"]
        if call.query != {"captcha_id": self.captcha_id}:
            return 200, {"status": "error", "code": "-50002", "msg": "illegal captcha_id", "desc": {}}
        right = hmac.new(self.captcha_key.encode(), lot.encode(), hashlib.sha256).hexdigest()
        if form["sign_token"] != right:
            return 200, {"status": "error", "code": "-50303", "msg": "illegal sign_token", "desc": {}}
        if not form["gen_time"].isdigit():
            return 200, {"status": "error", "code": "-50005", "msg": "illegal gen_time", "desc": {}}
        wanted = self.validated(lot)
        if lot not in self.genuine or any(form[name] != wanted[name] for name in ("pass_token", "captcha_output")):
            return 200, {"status": "success", "result": "fail", "reason": "pass_token error", "captcha_args": {}}
        if not self.uses(lot):
            return 200, {"status": "success", "result": "fail", "reason": "pass_token expire", "captcha_args": {}}
        return 200, {"status": "success", "result": "success", "reason": "", "captcha_args": {}}


@dataclass
class TencentSimulator(Simulator):
    kind: ClassVar[str] = "tencent"

    secret_key: str = "simulated-secret-key"
    app_secret_key: str = "simulated-app-key"

    @property
    def table(self) -> dict[str, Any]:
        return {
            "secret_id": "AKID",
            "secret_key": "simulated-secret-key",
            "app_id": 2012345678,
            "app_secret_key": "simulated-app-key",
        }

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"secret_key": "another"}, {"secret_id": "another"}, {"app_secret_key": "another"}, {"app_id": 1}]

    @property
    def yes(self) -> bytes:
        return b'{"Response": {"CaptchaCode": 1, "CaptchaMsg": "OK"}'

    def token(self, name: str) -> str:
        return json.dumps({"ret": 0, "ticket": name, "randstr": f"@{name[:3]}", "appid": "2012345678"})

    def content(self, call: Call) -> dict[str, Any]:
        return dict(json.loads(call.body))

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        if fault := self._fault(call):
            return 200, {"Response": {"Error": {"Code": fault, "Message": "m"}, "RequestId": "R"}}
        said = json.loads(call.body)
        return 200, {"Response": {"CaptchaCode": self._code(said), "CaptchaMsg": "m", "EvilLevel": 0, "RequestId": "R"}}

    def _code(self, said: dict[str, Any]) -> int:
        if said["CaptchaAppId"] != 2012345678:
            return 16
        if said["AppSecretKey"] != self.app_secret_key:
            return 100
        if said["Ticket"].startswith(("trerror_", "terror_")):
            return 21
        if said["Ticket"] not in self.genuine:
            return 15
        if said["Randstr"] != f"@{said['Ticket'][:3]}":
            return 7
        return 1 if self.uses(said["Ticket"]) else 9

    def _fault(self, call: Call) -> str:
        stamp = call.fields["x-tc-timestamp"]
        if abs(int(stamp) - time.time()) > 300:
            return "AuthFailure.SignatureExpire"
        if (call.fields["x-tc-action"], call.fields["x-tc-version"]) != ("DescribeCaptchaResult", "2019-07-22"):
            return "InvalidAction"
        day = time.strftime("%Y-%m-%d", time.gmtime(int(stamp)))
        head = f"content-type:{call.fields['content-type']}\nhost:{call.fields['host']}\n"
        digest = hashlib.sha256(call.body).hexdigest()
        canonical = f"{call.method}\n/\n\n{head}\ncontent-type;host\n{digest}"
        scope = f"{day}/captcha/tc3_request"
        text = f"TC3-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"TC3{self.secret_key}".encode()
        for part in (day, "captcha", "tc3_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        right = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        wanted = f"TC3-HMAC-SHA256 Credential=AKID/{scope}, SignedHeaders=content-type;host, Signature={right}"
        return "" if call.fields["authorization"] == wanted else "AuthFailure.SignatureFailure"


@dataclass
class AliyunSimulator(Simulator):
    kind: ClassVar[str] = "aliyun"

    access_key_secret: str = "simulated-secret"
    scene_id: str = "abc123"
    nonces: set[str] = field(default_factory=set)

    @property
    def table(self) -> dict[str, Any]:
        return {"access_key_id": "AKID", "access_key_secret": "simulated-secret", "scene_id": "abc123"}

    @property
    def wrong_tables(self) -> list[dict[str, Any]]:
        return [{"access_key_secret": "another"}, {"access_key_id": "another"}]

    @property
    def yes(self) -> bytes:
        return b'{"Code": "Success", "Success": true, "Result": {"VerifyResult": true, "VerifyCode": "T001"}'

    def token(self, name: str) -> str:
        return json.dumps({"sceneId": "abc123", "certifyId": name, "deviceToken": "T~* &é"})

    def judge(self, call: Call) -> tuple[int, dict[str, Any]]:
        if fault := self._fault(call):
            return 403 if fault.startswith("Forbidden") else 400, {"Code": fault, "Message": "m", "Success": False}
        code = self._code(call.form)
        result = {"VerifyResult": code.startswith("T"), "VerifyCode": code}
        return 200, {"Code": "Success", "Message": "success", "Success": True, "RequestId": "R", "Result": result}

    def _code(self, form: dict[str, str]) -> str:
        if form["SceneId"] != self.scene_id:
            return "F012"
        try:
            shown = json.loads(form["CaptchaVerifyParam"])
            name = shown["certifyId"]
        except (ValueError, TypeError, KeyError):
            return "F003"
        if name not in self.genuine:
            return "F015"
        return "T001" if self.uses(name) else "F008"

    def _fault(self, call: Call) -> str:
        fields = call.fields
        head, _, rest = fields.get("authorization", "").partition(" ")
        said = dict(part.split("=", 1) for part in rest.split(",")) if rest else {}
        if head != "ACS3-HMAC-SHA256" or said.get("Credential") != "AKID":
            return "InvalidAccessKeyId.NotFound"
        if (fields["x-acs-action"], fields["x-acs-version"]) != ("VerifyIntelligentCaptcha", "2023-03-05"):
            return "InvalidAction.NotFound"
        names = said["SignedHeaders"].split(";")
        must = {"host", "content-type"} | {name for name in fields if name.startswith("x-acs-")}
        query = "&".join(f"{quote(n, safe='~')}={quote(v, safe='~')}" for n, v in sorted(call.query.items()))
        lines = "".join(f"{name}:{fields[name].strip()}\n" for name in names)
        digest = hashlib.sha256(call.body).hexdigest()
        canonical = "\n".join([call.method, call.path, query, lines, said["SignedHeaders"], digest])
        text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
        right = hmac.new(self.access_key_secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        is_signed = right == said["Signature"] and fields["x-acs-content-sha256"] == digest
        if not is_signed or not must <= set(names) or names != sorted(names):
            return "SignatureDoesNotMatch"
        if fields["x-acs-signature-nonce"] in self.nonces:
            return "SignatureNonceUsed"
        self.nonces.add(fields["x-acs-signature-nonce"])
        return ""


# One of each kind, and one of each version that a kind has.
ALL: dict[str, type[Simulator]] = {
    "turnstile": TurnstileSimulator,
    "hcaptcha": HcaptchaSimulator,
    "recaptcha": RecaptchaSimulator,
    "recaptcha-v3": RecaptchaV3Simulator,
    "recaptcha-enterprise": AssessmentSimulator,
    "yidun": YidunSimulator,
    "geetest": GeetestSimulator,
    "tencent": TencentSimulator,
    "aliyun": AliyunSimulator,
}


@asynccontextmanager
async def running(simulator: Simulator) -> AsyncIterator[str]:
    """The simulator on a loopback port: gives its endpoint, and keeps it."""
    end = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        fields = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.method, request.path, dict(request.query), fields, await request.read())
        simulator.asked.append(simulator.content(call))
        if simulator.silent:
            await end.wait()
        if (instead := simulator.answer) is not None:  # a new one each time
            return web.Response(status=instead.status, body=instead.body, headers=instead.headers)
        status, answer = simulator.judge(call)
        if simulator.lose:
            simulator.lose -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_post("/verify{rest:.*}", handle)
    server = TestServer(app)
    await server.start_server()
    simulator.endpoint = str(server.make_url("/verify"))
    try:
        yield simulator.endpoint
    finally:
        end.set()
        await server.close()
