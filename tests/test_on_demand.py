"""Values that are made when they are asked for; and what a process does not import because of that."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.on_demand import OnDemand


def test_a_value_is_made_when_it_is_asked_for_and_once() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name.upper()

    values = OnDemand(["a", "b"], make)
    assert list(values) == ["a", "b"]
    assert len(values) == 2
    assert "a" in values
    assert not made
    assert values["b"] == values["b"] == "B"
    assert made == ["b"]
    with pytest.raises(KeyError):
        values["c"]
    assert made == ["b"]


CONFIG = """
[server]
listen = "127.0.0.1:0"
admin = "unix:{folder}/admin"
state_dir = "{folder}"
[upstream]
url = "http://127.0.0.1:9"
[providers.hook]
kind = "webhook"
url = "https://example.com/sms"
secret = "whsec_c2lkZWNhcg=="
[[delivery]]
providers = ["hook"]
"""
# The command, told apart by nothing but what it says of its modules at its end.
RUN = """
import atexit, sys
from sidecar.cli import main
atexit.register(lambda: print(*{module.partition(".")[0] for module in sys.modules}))
sys.exit(main(["run", sys.argv[1]]))
"""


def test_a_process_imports_nothing_large_that_its_configuration_does_not_need(tmp_path: Path) -> None:
    """No vendor's package, no redis-py for the embedded store, and no other web server beside its own."""
    path = tmp_path / "sidecar.toml"
    path.write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if '"listening"' in line:
                process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    imported = set(told.split())
    assert {"sidecar", "pydantic", "phonenumbers"} <= imported
    assert not imported & {"twilio", "requests", "redis", "valkey", "aiohttp", "aiosmtplib"}
