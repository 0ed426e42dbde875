"""How much does it cost to pass? The sidecar beside other proxies, in one run: `make bench-pass`.

Everything under test is pinned to core 0, the load and upstream to core 1. Rounds are interleaved, so that what else
the machine does falls on all alike; the table gives medians and ratios. A rival that is not installed is left out and
says why. Loopback only.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rig import HERE, SERVES, WORK, cpu_s, nginx_command, running

UPSTREAM, ECHO = 18000, 18001
CONNECTIONS = 64
BODY_MB = 100
FRAME = b"\x81\xa0" + bytes(4) + b"x" * 32  # a masked text of 32 octets; the mask is zero
ECHOED = b"\x81\x20" + b"x" * 32

PROXIES = """upstream u {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
server {{ listen 127.0.0.1:{port};
  location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_buffering {buffering}; proxy_request_buffering off;
    proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }}
}}"""
SIDECAR = """[server]
listen = "127.0.0.1:{port}"
admin = "127.0.0.1:{admin}"
state_dir = "{work}/state-{port}"
access_log = "{log}"
[upstream]
url = "http://127.0.0.1:{upstream}"
[api]
captcha = ""
"""
CADDY = """{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{upstream}
}}
"""


@dataclass
class Rival:
    """One proxy: `command` is made of its own port and upstream's. `missing` says why it cannot run."""

    name: str
    port: int
    command: Callable[[int, int], list[str]]
    missing: str = ""
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    varied: list[float] = field(default_factory=list)
    varied_us: list[float] = field(default_factory=list)
    pid: int = 0
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    echoes: list[float] = field(default_factory=list)
    errors: int = 0


def nginx(name: str, template: str) -> Callable[[int, int], list[str]]:
    def command(port: int, upstream: int) -> list[str]:
        return nginx_command(name, port, template.format(port=port, upstream=upstream, work=WORK, buffering="on"))

    return command


def sidecar(log: str, source: Path = HERE.parent) -> Callable[[int, int], list[str]]:
    def command(port: int, upstream: int) -> list[str]:
        path = WORK / f"sidecar-{port}.toml"
        path.write_text(SIDECAR.format(port=port, admin=port + 1000, upstream=upstream, work=WORK, log=log))
        return ["env", f"PYTHONPATH={source}", sys.executable, "-m", "sidecar", "run", str(path)]

    return command


def caddy(port: int, upstream: int) -> list[str]:
    path = WORK / f"Caddyfile-{port}"
    path.write_text(CADDY.format(port=port, upstream=upstream))
    return [caddy_path() or "caddy", "run", "--adapter", "caddyfile", "--config", str(path)]


def caddy_path() -> str | None:
    return shutil.which("caddy", path=f"{WORK / 'bin'}:{os.environ['PATH']}")


def rivals() -> list[Rival]:
    node = WORK / "node" / "node_modules" / "@fastify" / "http-proxy"
    missing_node = "" if shutil.which("node") and node.exists() else "needs node, and npm install in .bench/node"
    return [
        Rival("sidecar", 18080, sidecar("guarded")),
        Rival("sidecar with access_log = all", 18081, sidecar("all")),
        Rival("nginx", 18082, nginx("nginx", PROXIES)),
        Rival("caddy", 18083, caddy, "" if caddy_path() else "needs caddy on PATH or in .bench/bin"),
        Rival(
            "fastify http-proxy",
            18084,
            lambda port, upstream: ["node", str(WORK / "node" / "fastify.cjs"), str(port), str(upstream)],
            missing_node,
        ),
        Rival(
            "aiohttp client + server",
            18085,
            lambda port, upstream: [
                sys.executable,
                str(HERE / "rivals" / "plain_aiohttp.py"),
                str(port),
                str(upstream),
            ],
        ),
    ]


def requests(rival: Rival, seconds: int) -> None:
    """The same small request again and again, and then every one with a head of its own."""
    out, count, cpu_us = load(rival, seconds)
    rival.cpu_us.append(cpu_us)
    rival.rates.append(count)
    for share, into in (("50", rival.p50s), ("99", rival.p99s)):
        number, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", out).groups()
        into.append(float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit])
    _, count, cpu_us = load(rival, seconds, "-s", str(HERE / "varied.lua"))
    rival.varied.append(count)
    rival.varied_us.append(cpu_us)


def load(rival: Rival, seconds: int, *extra: str) -> tuple[str, float, float]:
    """Run wrk; return what it printed, the requests per second, and the proxy's CPU time for one."""
    before = cpu_s(rival.pid)
    out = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency", *extra,
         f"http://127.0.0.1:{rival.port}/api/items/1?x=2"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    count = int(re.search(r"(\d+) requests in", out)[1])
    rival.errors += "Non-2xx" in out or "Socket errors" in out
    return out, float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]), (cpu_s(rival.pid) - before) / count * 1e6


def transfer(rival: Rival, what: str, *arguments: str) -> float:
    """Run curl; return MB/s."""
    done = subprocess.run(
        ["taskset", "-c", "1", "curl", "-s", "-o", "/dev/null", "-w", f"%{{http_code}} %{{{what}}}", *arguments],
        capture_output=True, text=True,
    )  # fmt: skip
    status, speed = done.stdout.split()
    rival.errors += bool(done.returncode) or status != "200"
    return float(speed) / 1e6


class Echo(asyncio.Protocol):
    """Upstream's end of what is not a small answer: takes an upload to its last octet before it answers; of a WebSocket,
    the handshake, then every frame back without its mask."""

    def connection_made(self, transport):
        self.transport, self.buffer, self.is_open, self.left, self.ending = transport, b"", False, 0, None
        self.is_raw = False

    def data_received(self, data):
        if self.left or self.ending is not None:
            return self.take(data)
        self.buffer += data
        if not self.is_open:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            key = re.search(rb"(?im)^sec-websocket-key:\s*(\S+)", head)
            if key is None:
                length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
                self.buffer = b""
                if length is None and b"chunked" not in head.lower():
                    return self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                self.left, self.ending = (int(length[1]), None) if length else (0, b"")
                return self.take(rest)
            accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self.is_open, self.buffer = True, rest
            self.is_raw = b" /raw " in head
        if self.is_raw:
            self.transport.write(self.buffer)
            self.buffer = b""
            return None
        out = []
        while len(self.buffer) >= 6 and len(self.buffer) >= (size := 6 + (self.buffer[1] & 127)):
            mask, payload = self.buffer[2:6], self.buffer[6:size]
            if any(mask):
                payload = bytes(octet ^ mask[at & 3] for at, octet in enumerate(payload))
            out.append(bytes([self.buffer[0], len(payload)]) + payload)
            self.buffer = self.buffer[size:]
        if out:
            self.transport.write(b"".join(out))

    def take(self, data):
        if self.ending is not None:  # chunks: random octets do not end like this
            self.ending = (self.ending + data)[-7:]
            is_over = self.ending == b"\r\n0\r\n\r\n"
        else:
            self.left -= len(data)
            is_over = not self.left
        if is_over:
            self.left, self.ending = 0, None
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class Asker(asyncio.Protocol):
    """The client's end: one message at a time, the next when its echo is whole."""

    def __init__(self, port):
        self.count, self.got, self.port, self.is_open = 0, b"", port, False

    def connection_made(self, transport):
        self.transport = transport
        transport.write(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % self.port
        )

    def data_received(self, data):
        self.got += data
        if not self.is_open:
            if b"\r\n\r\n" not in self.got:
                return
            head, _, self.got = self.got.partition(b"\r\n\r\n")
            self.is_open = head.startswith(b"HTTP/1.1 101")
            self.transport.write(FRAME)
            return
        while self.got.startswith(ECHOED):
            self.got = self.got[len(ECHOED) :]
            self.count += 1
            self.transport.write(FRAME)


async def _serve_echo():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", ECHO, backlog=1024)
    await server.serve_forever()


async def _ask(port, seconds):
    loop = asyncio.get_running_loop()
    ends = [(await loop.create_connection(lambda: Asker(port), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.3)
    before, began = sum(end.count for end in ends), time.perf_counter()
    await asyncio.sleep(seconds)
    print((sum(end.count for end in ends) - before) / (time.perf_counter() - began))
    for end in ends:
        end.transport.abort()


def echoes(rival: Rival, port: int, seconds: int) -> None:
    done = subprocess.run(
        ["taskset", "-c", "1", sys.executable, __file__, "--ask", str(port), "--seconds", str(seconds)],
        capture_output=True, text=True,
    )  # fmt: skip
    rival.echoes.append(float(done.stdout or 0))


def table(found: list[Rival]) -> str:
    def median(values: list[float]) -> float:
        return statistics.median(values) if values else 0.0

    by_name = {rival.name: rival for rival in found}

    def ratio(rival: Rival, name: str, what: str) -> str:
        base = median(getattr(by_name[name], what)) if name in by_name else 0
        return f"{median(getattr(rival, what)) / base:.2f}" if base else "–"

    rows = [
        "| proxy | req/s | × nginx | × caddy | CPU µs | p50 ms | p99 ms | varied req/s | × nginx | × caddy | CPU µs "
        "| MB/s down | up | ws msg/s |",
        "|---" * 14 + "|",
    ]
    for rival in found:
        cells = [rival.name]
        for what, cpu in (("rates", rival.cpu_us), ("varied", rival.varied_us)):
            cells += [f"{median(getattr(rival, what)):.0f}", ratio(rival, "nginx", what), ratio(rival, "caddy", what)]
            cells.append(f"{median(cpu):.0f}")
            if what == "rates":
                cells += [f"{median(rival.p50s):.2f}", f"{median(rival.p99s):.2f}"]
        cells += [f"{median(values):.0f}" for values in (rival.down, rival.up, rival.echoes)]
        rows.append(f"| {' | '.join(cells)} |" + (f" ({rival.errors} runs with errors)" if rival.errors else ""))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-bodies", action="store_true", help="requests only")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument(
        "--beside", action="append", default=[], metavar="NAME=DIR", help="another checkout of the sidecar, too"
    )
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.echo:
        return uvloop.run(_serve_echo())
    if args.ask:
        return uvloop.run(_ask(args.ask, args.seconds))
    for tool in ("wrk", "nginx", "curl", "taskset"):
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin"):
            return print(f"skipped: no {tool} on PATH")
    if (os.cpu_count() or 1) < 2:
        return print("skipped: needs two cores, one of them for what is measured")
    (WORK / "big").mkdir(parents=True, exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    (WORK / "big" / "body").write_bytes(os.urandom(1 << 20) * BODY_MB)
    (WORK / "node").mkdir(exist_ok=True)
    # Node looks for packages beside the script.
    (WORK / "node" / "fastify.cjs").write_text((HERE / "rivals" / "fastify.cjs").read_text())
    wanted = [rival for rival in rivals() if not args.only or rival.name in args.only.split(",")]
    for number, (name, _, source) in enumerate(one.partition("=") for one in args.beside):
        for log, title in (("guarded", name), ("all", f"{name} with access_log = all")):
            wanted.append(Rival(title, 18090 + 2 * number + (log == "all"), sidecar(log, Path(source).resolve())))
    found = []
    for rival in wanted:
        if rival.missing:
            print(f"skipped: {rival.name}: {rival.missing}")
        else:
            found.append(rival)
    with ExitStack() as stack:
        stack.enter_context(running(1, nginx("upstream", SERVES)(UPSTREAM, 0), UPSTREAM))
        for rival in found:
            rival.pid = stack.enter_context(running(0, rival.command(rival.port, UPSTREAM), rival.port)).pid
        for number in range(args.repeats):
            for rival in found[number % len(found) :] + found[: number % len(found)]:  # nobody is always first
                requests(rival, args.seconds)
                if not args.no_bodies:
                    url = f"http://127.0.0.1:{rival.port}/big/body"
                    rival.down.append(transfer(rival, "speed_download", url))
            print(
                f"round {number + 1}: " + ", ".join(f"{rival.name} {rival.rates[-1]:.0f}" for rival in found),
                flush=True,
            )
    with ExitStack() as stack:
        if not args.no_bodies:
            stack.enter_context(running(1, [sys.executable, __file__, "--echo"], ECHO))
        for rival in found if not args.no_bodies else []:
            stack.enter_context(running(0, rival.command(rival.port + 20, ECHO), rival.port + 20))
        for _ in range(args.repeats if not args.no_bodies else 0):
            for rival in found:
                port = rival.port + 20
                echoes(rival, port, max(2, args.seconds // 2))
                url = f"http://127.0.0.1:{port}/sink"
                rival.up.append(transfer(rival, "speed_upload", "-H", "Expect:", "-T", str(WORK / "big" / "body"), url))
    print(
        f"\nmedians of {args.repeats} interleaved runs of {args.seconds} s, {CONNECTIONS} connections, {BODY_MB} MB bodies\n"
    )
    print(table(found))
    (WORK / "pass.json").write_text(json.dumps([{**vars(rival), "command": None} for rival in found], indent=1))


if __name__ == "__main__":
    main()
