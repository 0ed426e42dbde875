"""A production configuration, as the README has it: Turnstile and Twilio, their endpoints pointed at simulators."""

import asyncio
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from aiohttp import web
from captcha_simulators import TurnstileSimulator
from captcha_simulators import running as simulated
from fakes import FakeUpstream
from telling import serve_public

from sidecar.app import running
from sidecar.config.load import load
from sidecar.demo.handset import Handset
from sidecar.demo.operators import Operators, open_accounts
from sidecar.kinds import kinds
from sidecar.metrics import Metrics

README = Path(__file__).parents[2] / "README.md"
E164 = "+14155550100"


async def test_the_readmes_configuration_walks_through_twilio_and_turnstile(tmp_path: Path, store_url: str) -> None:
    """With the endpoints pointed at simulators that check what they are sent, and no other change, it works."""
    accounts = open_accounts()
    turnstile = TurnstileSimulator(hostname="www.example.com", genuine={"solved"})
    handset = Handset("/", {"a": "ok", "b": "ok"})
    phones = web.Application()
    phones.add_routes(Operators(handset, accounts).routes())
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(FakeUpstream())
        verifier = await stack.enter_async_context(simulated(turnstile))
        runner = web.AppRunner(phones)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        twilio = f"http://127.0.0.1:{runner.addresses[0][1]}/twilio"

        text = README.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
        assert tomllib.loads(text)["providers"]["twilio"]["from"] == accounts.sender
        text = text.replace('kind     = "turnstile"', f'kind     = "turnstile"\nendpoint = "{verifier}"')
        text = text.replace('kind        = "twilio"', f'kind        = "twilio"\nendpoint = "{twilio}"')
        text = text.replace("/var/lib/signup-sidecar", str(tmp_path / "state"))
        text = text.replace("http://127.0.0.1:8000", upstream.url)
        token_file = tmp_path / "twilio"
        token_file.write_text(accounts.auth_token + "\n")
        text = text.replace("/run/secrets/twilio", str(token_file))
        path = tmp_path / "sidecar.toml"
        path.write_text(text)
        env = {
            "TURNSTILE_SECRET": turnstile.secret,
            "TURNSTILE_SITE_KEY": "site",
            "TWILIO_ACCOUNT_SID": accounts.account_sid,
        }
        app = await stack.enter_async_context(running(load(path, env, kinds()), store_url, Metrics()))
        url = f"http://127.0.0.1:{(await serve_public(stack, app))[0]}"
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def post(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            async with session.post(url + path, json=body) as response:
                return response.status, await response.json(content_type=None) if response.status != 200 else None

        status, problem = await post("/api/sms/code", {"phone": "(415) 555-0100", "captcha": "made up"})
        assert (status, problem["code"]) == (403, "captcha_failed")
        assert (await post("/api/sms/code", {"phone": "(415) 555-0100", "captcha": "solved"}))[0] == 200
        assert turnstile.asked[-1]["remoteip"] == "127.0.0.1"
        async with asyncio.timeout(30):
            while not handset._texts:
                await asyncio.sleep(0)
        (message,) = handset._texts
        assert (message.to, message.operator) == (E164, "a")
        code = next(word for word in message.text.replace(".", " ").split() if word.isdecimal() and len(word) == 6)
        status, problem = await post("/api/register", {"phone": "4155550100"})
        assert (status, problem["code"]) == (401, "code_required")
        assert (await post("/api/register", {"phone": "4155550100", "code": code}))[0] == 200
        (request,) = upstream.requests
        keys = jwt.PyJWKSet.from_dict(app.gate._signer.jwks())
        token = request.value(b"x-verified-identity").decode()
        key = keys[jwt.get_unverified_header(token)["kid"]]
        said = jwt.decode(token, key, algorithms=["ES256"], audience="upstream", issuer="signup-sidecar")
        assert said["phone_number"] == E164
