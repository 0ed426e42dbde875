"""How soon is it ready, and how much memory does it hold then? `signup-sidecar run` with its embedded store: `make bench-start`.

Twice: with the configuration of README.md, and with config.example.toml, which has everything. Measured is from the start
of the process until /readyz says 200, asked every 5 ms; the CPU time that the process took until then; and its
proportional set size (PSS, /proc/PID/smaps_rollup) a second later, the store's beside it. Medians.
"""

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What the configurations take from their environment.
SECRETS = {"SIDECAR_SECRET": "s" * 32, "TWILIO_ACCOUNT_SID": f"AC{'0' * 32}", "WEBHOOK_SECRET": "whsec_c2lkZWNhcg=="}


def configurations() -> dict[str, str]:
    readme = re.search(r"```toml\n(\[server\].*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    return {"README.md": readme, "config.example.toml": (ROOT / "config.example.toml").read_text()}


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return end.getsockname()[1]


def placed(text: str, folder: Path, admin: int) -> str:
    """The configuration, its ports and folders for this run alone."""
    for key, value in (("listen", f"127.0.0.1:{free_port()}"), ("admin", f"127.0.0.1:{admin}"), ("state_dir", folder)):
        text = re.sub(rf"^{key} .*\n", "", text, flags=re.MULTILINE)
        text = text.replace("[server]\n", f'[server]\n{key} = "{value}"\n', 1)
    return text.replace("${file:/run/secrets/twilio}", "${TWILIO_AUTH_TOKEN}")


def is_ready(admin: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", admin), 1) as end:
        end.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return end.recv(4096).startswith(b"HTTP/1.1 200")
    return False


def pss_mb(pid: int) -> float:
    return int(re.search(r"(?m)^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) / 1024


def cpu_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def started(text: str, command: str) -> tuple[float, float, float, float]:
    """Start it once: seconds until ready, CPU seconds until then, MB of its own, MB of its store."""
    with tempfile.TemporaryDirectory() as folder:
        admin, path = free_port(), Path(folder) / "sidecar.toml"
        path.write_text(placed(text, Path(folder), admin))
        environment = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)\}", path.read_text()), "x" * 8) | SECRETS
        # What is installed is compiled, so the first start compiles here, whatever the caller's shell says.
        environment["PYTHONDONTWRITEBYTECODE"] = ""
        with (Path(folder) / "log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                [command, "run", str(path)], env=os.environ | environment, stdout=log, stderr=log
            )
            try:
                while not is_ready(admin):
                    if process.poll() is not None or time.perf_counter() > began + 30:
                        raise SystemExit((Path(folder) / "log").read_text())
                    time.sleep(0.005)
                ready_s, took_s = time.perf_counter() - began, cpu_s(process.pid)
                time.sleep(1)
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                return ready_s, took_s, pss_mb(process.pid), sum(pss_mb(int(child)) for child in children)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument(
        "--command", default=str(Path(sys.executable).parent / "signup-sidecar"), help="another checkout's"
    )
    args = parser.parse_args()
    print("| configuration | ready, s | CPU until then, s | PSS, MB | its store's |\n|---|---|---|---|---|")
    for name, text in configurations().items():
        started(text, args.command)  # so that all is compiled, and in the page cache
        found = [started(text, args.command) for _ in range(args.runs)]
        ready_s, took_s, pss, store = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {ready_s:.2f} | {took_s:.2f} | {pss:.1f} | {store:.1f} |", flush=True)


if __name__ == "__main__":
    main()
