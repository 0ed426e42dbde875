"""What the documents show works: each snippet is run, or checked by the program that it is for."""

import asyncio
import configparser
import json
import operator
import os
import re
import shlex
import shutil
import sys
import time
import types
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from certificates import Authority
from children import PATIENCE_S
from config.deployment import LONG_SECRET, deployment
from documents import ROOT, Snippet, snippets
from telling import CONFIG, Sidecar, Start

from sidecar import cli
from sidecar.app import signing_keys
from sidecar.config.load import Problem, load
from sidecar.identity import Bound, Signer, of_captcha
from sidecar.kinds import kinds

TEST_NUMBER: Final = "+8613800000000"
CODE: Final = "246810"
# What the documents' front ends and lines speak to.
TABLES: Final = """
[api]
cors_origins = ["https://www.example.com"]
[[routes]]
match = "POST /api/sms/code"
action = "send"
to = "json:phone"
captcha = "altcha"
captcha_token = "json:captcha"
limits = ["ip", "to"]
[[routes]]
match = "POST /api/register"
action = "verify"
to = "json:phone"
code = "json:code"
"""
# Programs that change a machine, or start another one: their lines are read, and not run.
NOT_RUN: Final = {"make", "pip", "docker", "systemctl", "kubectl", "kill"}

Runner = Callable[[Snippet, Start, Path, str], Awaitable[None]]


async def begun(start: Start, store_url: str, more: str = "") -> Sidecar:
    """A sidecar with the routes that the documents speak of."""
    return await start(f'{TABLES}{more}[store]\nurl = "{store_url}"\n', config=CONFIG)


def placed(text: str, sidecar: Sidecar) -> str:
    """Put the running sidecar in the place of the documents' addresses."""
    for public in ("http://127.0.0.1:8080", "https://www.example.com"):
        text = text.replace(public, sidecar.url)
    return text.replace("http://127.0.0.1:9090", f"http://127.0.0.1:{sidecar.admin_port}")


async def proofs(sidecar: Sidecar) -> dict[str, str]:
    """What a reader has at hand: a captcha's token, a verification's id, a verification's token."""
    ids = []
    for _ in range(2):
        body = {"to": TEST_NUMBER, "captcha": await sidecar.solved()}
        ids.append((await sidecar.ask("POST", "/.sidecar/v1/verifications", json=body)).json["id"])
        if len(ids) == 1:
            path = f"/.sidecar/v1/verifications/{ids[0]}/check"
            token = (await sidecar.ask("POST", path, json={"code": CODE})).json["token"]
    return {"CAPTCHA": await sidecar.solved(), "ID": ids[1], "TOKEN": token}


async def ran(*command: str, env: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Run a program to its end, which must be a good one; gives what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(env or {})},
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


def needed(program: str) -> str:
    """The program, or a skipped test."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here")
    return found


async def toml(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """It loads, in a deployment that has the files and variables which it names; a whole one has nothing doubtful."""
    text = snippet.text
    pair = Authority(tmp_path).issue("www.example.com")
    for name in sorted(set(re.findall(r'\$\{file:(/[^}]+)\}|"(/[^"]+\.pem)"', text))):
        named = "".join(name)
        if named.endswith(".pem"):
            text = text.replace(named, pair.key if re.search("key|jwt", named) else pair.cert)
        else:
            file = tmp_path / Path(named).name
            file.write_text(LONG_SECRET + "\n", "utf-8")
            text = text.replace(named, str(file))
    path = tmp_path / "sidecar.toml"
    path.write_text(text, "utf-8")
    warnings: list[Problem] = []
    load(path, deployment(), kinds(), warnings.append)
    if "[upstream]" in text and "[[routes]]" in text:
        assert not warnings, warnings


async def sh(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Its lines run, against a running sidecar; those that would change the machine name what is there."""
    lines = [shlex.split(line, comments=True) for line in snippet.text.replace("\\\n", " ").splitlines()]
    lines = [line for line in lines if line]
    programs = {line[0] for line in lines}
    for line in lines:
        match line:
            case ["signup-sidecar", *arguments]:
                cli._parser().parse_args(arguments)
            case ["make", target, *_]:
                assert re.search(f"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), target
    if programs & NOT_RUN or ["signup-sidecar", "run"] in [line[:2] for line in lines]:
        return
    for program in sorted(programs - {"signup-sidecar"}):
        needed(program)
    sidecar = await begun(start, store_url)
    folder = tmp_path / "bin"
    folder.mkdir()
    shims = {"signup-sidecar": f'exec {sys.executable} -m sidecar "$@"'}
    if curl := shutil.which("curl"):
        shims["curl"] = f'exec {curl} --fail --silent --show-error "$@"'
    for name, command in shims.items():
        (folder / name).write_text(f"#!/bin/sh\n{command}\n", "utf-8")
        (folder / name).chmod(0o755)
    text = re.sub(r"\S*\bsidecar\.toml", str(tmp_path / "sidecar.toml"), placed(snippet.text, sidecar))
    env = {**await proofs(sidecar), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    await ran("sh", "-euc", text, env=env, folder=tmp_path)


async def python(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Its check takes a real signed request, and no other one."""
    sidecar = await begun(start, store_url)
    token = (await proofs(sidecar))["TOKEN"]
    target = "/api/%72egister?from=docs"  # a path that frameworks decode
    body = json.dumps({"phone": TEST_NUMBER}).encode()
    fields = {"X-Verification-Token": token, "Content-Type": "application/json"}
    from yarl import URL

    answer = await sidecar.session.post(URL(sidecar.url + target, encoded=True), data=body, headers=fields)
    assert answer.status == 200, await answer.text()
    (request,) = sidecar.upstream.requests
    module = types.ModuleType("snippet")
    exec(compile(placed(snippet.text, sidecar), str(snippet), "exec"), module.__dict__)
    verified: Callable[..., dict[str, Any]] = module.__dict__["verified"]
    signed = request.value(b"X-Verified-Identity").decode()
    path = request.target.decode().partition("?")[0]
    said = await asyncio.to_thread(verified, signed, "POST", path, request.content)
    assert said["phone_number"] == TEST_NUMBER
    rules, keys = sidecar.app.config.identity, signing_keys(sidecar.app.config)
    bound = Bound("POST", path, body)
    soon, late = (
        Signer(rules, keys, partial(operator.add, time.time(), ahead_s), lambda: "id").sign(of_captcha(), bound)
        for ahead_s in (5, 60)
    )
    await asyncio.to_thread(verified, soon, "POST", path, body)  # its clock is behind ours, by less than its leeway
    for other in (
        (late, "POST", path, body),
        (signed, "PUT", path, body),
        (signed, "POST", "/api/register", body),
        (signed, "POST", path, b"{}"),
    ):
        with pytest.raises(jwt.InvalidTokenError):
            await asyncio.to_thread(verified, *other)


async def js(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Its functions sign somebody up: `verify` and `register`, in a browser that is on the sidecar's own pages."""
    node = needed("node")
    if int((await ran(node, "--version")).strip().lstrip("v").partition(".")[0]) < 18:
        pytest.skip("this node has no fetch; 18 is the first")
    sidecar = await begun(start, store_url)
    (tmp_path / "client.mjs").write_text((ROOT / "sidecar/pages/static/client.js").read_text("utf-8"), "utf-8")
    text = placed(snippet.text, sidecar).replace("/.sidecar/client.js", "./client.mjs")
    ask = json.dumps({"phone": TEST_NUMBER, "captcha": (await proofs(sidecar))["CAPTCHA"]})
    (tmp_path / "snippet.mjs").write_text(
        f"""
        const asked = fetch;
        globalThis.fetch = (target, more) => asked(new URL(target, {sidecar.url!r}), more);
        const {{ verify, register }} = await import("./snippet-text.mjs");
        const ask = {ask};
        const typed = ["000000", {CODE!r}];
        const token = await verify(ask.phone, ask.captcha, async () => typed.shift());
        const answer = await register(ask.phone, token);
        if (!answer.ok) throw new Error(`${{answer.status}}: ${{await answer.text()}}`);
        """,
        "utf-8",
    )
    (tmp_path / "snippet-text.mjs").write_text(text, "utf-8")
    await ran(node, str(tmp_path / "snippet.mjs"))
    assert [request.target for request in sidecar.upstream.requests] == [b"/api/register"]


async def html(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """What it loads from the sidecar is there."""
    found: list[str] = []

    class Sources(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if name in {"src", "challenge"} and value)

    Sources().feed(snippet.text)
    sidecar = await begun(start, store_url, '[captcha.slider]\nkind = "slider"\n')
    for source in found:
        if source.startswith("/.sidecar/"):
            assert (await sidecar.ask("GET", source)).status == 200, source


async def swift(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Its types are right."""
    (tmp_path / "snippet.swift").write_text(snippet.text, "utf-8")
    await ran(needed("swiftc"), "-typecheck", str(tmp_path / "snippet.swift"))


async def kotlin(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Its types are right; Android's own class for JSON is written here."""
    kotlinc = needed("kotlinc")
    (tmp_path / "JSONObject.kt").write_text(
        'package org.json\nclass JSONObject(text: String = "") {\n'
        "  fun put(name: String, value: Any?): JSONObject = this\n  fun getString(name: String): String = name\n"
        "  fun optString(name: String): String = name\n}\n",
        "utf-8",
    )  # fmt: skip
    (tmp_path / "Snippet.kt").write_text(snippet.text, "utf-8")
    files = (str(tmp_path / "Snippet.kt"), str(tmp_path / "JSONObject.kt"))
    await ran(kotlinc, *files, "-d", str(tmp_path / "out"))


async def json_(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """It is JSON."""
    json.loads(snippet.text)


async def ini(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """It is a unit of systemd whose command is ours."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign] # as the library's own documentation has it
    unit.read_string(snippet.text)
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    cli._parser().parse_args(arguments)
    assert Path(program).name == "signup-sidecar"
    analyze = needed("systemd-analyze")
    path = tmp_path / "signup-sidecar.service"
    path.write_text(snippet.text.replace(program, sys.executable), "utf-8")
    assert str(path) not in await ran(analyze, "verify", str(path))  # it names what it does not know, and exits 0


async def nginx(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """It takes it."""
    program = needed("nginx")
    path = tmp_path / "nginx.conf"
    own = f"pid {tmp_path}/pid; error_log stderr; events {{}}"
    path.write_text(f"{own} http {{ {snippet.text} }}", "utf-8")
    await ran(program, "-t", "-c", str(path), "-p", str(tmp_path))


async def yaml(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Its probes ask for what the admin listener has, its arguments are the command's, and what it scales is there."""
    parser: Any = pytest.importorskip("yaml", reason="no PyYAML here")
    sidecar = await begun(start, store_url)
    documents = [one for each in snippets() if each.kind == "yaml" for one in parser.safe_load_all(each.text)]
    deployed = {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "Deployment"}
    for document in parser.safe_load_all(snippet.text):
        if document["kind"] == "HorizontalPodAutoscaler":
            pod = deployed[document["spec"]["scaleTargetRef"]["name"]]["template"]["spec"]
            measured = {metric["containerResource"]["container"] for metric in document["spec"]["metrics"]}
            assert measured <= {container["name"] for container in pod["containers"]}
            continue
        if document["kind"] == "PodDisruptionBudget":
            assert document["spec"]["selector"] in [spec["selector"] for spec in deployed.values()]
            continue
        pod = document["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > 30
        for container in pod["containers"]:
            cli._parser().parse_args(container["args"])
            for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
                assert (await sidecar.admin(container[probe]["httpGet"]["path"])).status == 200


async def text(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """A drawing, a message as it looks: nothing to run."""


RUNNERS: Final[Mapping[str, Runner]] = {
    "toml": toml,
    "sh": sh,
    "python": python,
    "js": js,
    "html": html,
    "swift": swift,
    "kotlin": kotlin,
    "json": json_,
    "ini": ini,
    "nginx": nginx,
    "yaml": yaml,
    "text": text,
}


@pytest.mark.parametrize("snippet", tuple(snippets()), ids=str)
async def test_a_snippet_works(snippet: Snippet, start: Start, tmp_path: Path, store_url: str) -> None:
    """Each snippet of the documents is held by the runner of its kind; a kind without a runner is a failure."""
    assert snippet.kind in RUNNERS, f"{snippet}: expected one of {', '.join(RUNNERS)} behind the fence"
    await RUNNERS[snippet.kind](snippet, start, tmp_path, store_url)
