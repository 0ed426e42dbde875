"""How much memory does passing hold? 1 GB each way on one stream, and 10,000 idle connections: `python bench/memory.py`."""

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

from bench_pass import ECHO, HERE, SERVES, UPSTREAM, WORK, nginx, running, sidecar

PORT = 18090
GB = 1 << 30
IDLE = 10_000


def held_mb(pid: int, key: str = "VmRSS") -> float:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def peak_during(pid: int, what) -> float:
    """The most that the process held while `what` ran, over what it held before, in MB."""
    before = peak = held_mb(pid)
    thread = threading.Thread(target=what)
    thread.start()
    while thread.is_alive():
        peak = max(peak, held_mb(pid))
        time.sleep(0.005)
    return peak - before


def curl(*arguments: str) -> None:
    out = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{size_upload}", *arguments],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert out[0] == "200", out
    assert str(GB) in out or "--limit-rate" not in arguments, out


def websocket() -> None:
    """Send 1 GB and take it back, at once."""
    end = socket.create_connection(("127.0.0.1", PORT + 1))
    end.sendall(
        b"GET /raw HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert end.recv(4096).startswith(b"HTTP/1.1 101")
    piece = bytes(1 << 20)
    writer = threading.Thread(target=lambda: [end.sendall(piece) for _ in range(GB >> 20)])
    writer.start()
    left = GB
    while left:
        left -= len(end.recv(min(left, 1 << 20)))
    writer.join()
    end.close()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(40_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    (WORK / "big").mkdir(parents=True, exist_ok=True)
    big = WORK / "big" / "gigabyte"
    with big.open("wb") as file:
        file.truncate(GB)
    url = f"http://127.0.0.1:{PORT}"
    with ExitStack() as stack:
        stack.enter_context(running(1, nginx("upstream", SERVES)(UPSTREAM, 0), UPSTREAM))
        pid = stack.enter_context(running(0, sidecar("guarded")(PORT, UPSTREAM), PORT)).pid
        for _ in range(50):
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"{url}/"], check=True)
        print(f"at rest: {held_mb(pid):.1f} MB")
        print(f"1 GB down: +{peak_during(pid, lambda: curl(f'{url}/big/gigabyte')):.1f} MB")
        slow = lambda: curl("--limit-rate", "200M", f"{url}/big/gigabyte")
        print(f"1 GB down to a reader of 200 MB/s: +{peak_during(pid, slow):.1f} MB")
        stack.enter_context(running(1, [sys.executable, str(HERE / "bench_pass.py"), "--echo"], ECHO))
        other = stack.enter_context(running(0, sidecar("guarded")(PORT + 1, ECHO), PORT + 1)).pid
        for _ in range(50):
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{PORT + 1}/"], check=True)
        upload = lambda: curl("-H", "Expect:", "-T", str(big), f"http://127.0.0.1:{PORT + 1}/sink")
        print(f"1 GB up: +{peak_during(other, upload):.1f} MB")
        print(f"1 GB each way through a WebSocket: +{peak_during(other, websocket):.1f} MB")
        before = held_mb(pid)
        ends = []
        for _ in range(IDLE):
            end = socket.create_connection(("127.0.0.1", PORT))
            end.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert end.recv(4096).startswith(b"HTTP/1.1 200")
            ends.append(end)
        began = time.perf_counter()
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"{url}/"], check=True)
        took = (time.perf_counter() - began) * 1000
        held = held_mb(pid) - before
        print(
            f"{IDLE} idle connections: +{held:.0f} MB, {held * 1024 / IDLE:.1f} KiB each; another request takes {took:.0f} ms"
        )
        ends[0].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ends[0].recv(4096).startswith(b"HTTP/1.1 200")
        assert len(os.listdir(f"/proc/{pid}/fd")) > IDLE
        for end in ends:
            end.close()


if __name__ == "__main__":
    main()
