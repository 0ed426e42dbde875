"""The units read what the contract writes, and nothing else; what they write they read back."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sidecar.config.findings import UnfitError
from sidecar.config.units import (
    FROM_TOML,
    Duration,
    Listen,
    ListenText,
    Network,
    Rate,
    RateText,
    Size,
    read_duration,
    read_listen,
    read_network,
    read_rate,
    read_size,
    spell_duration,
    spell_size,
)

RIGHT: list[tuple[Callable[[Any], Any], str, Any]] = [
    (read_duration, "250ms", 0.25),
    (read_duration, "60s", 60.0),
    (read_duration, "1.5s", 1.5),
    (read_duration, "5m", 300.0),
    (read_duration, "1h", 3600.0),
    (read_duration, "1d", 86400.0),
    (read_duration, "0s", 0.0),
    (read_rate, "1/60s", Rate(1, 60.0)),
    (read_rate, "20/1h", Rate(20, 3600.0)),
    (read_rate, "3/250ms", Rate(3, 0.25)),
    (read_size, "500B", 500),
    (read_size, "64KiB", 65536),
    (read_size, "1MiB", 1 << 20),
    (read_size, "2GiB", 2 << 30),
    (read_listen, "127.0.0.1:8080", Listen(host="127.0.0.1", port=8080)),
    (read_listen, ":0", Listen()),
    (read_listen, "[::1]:8080", Listen(host="::1", port=8080)),
    (read_listen, "localhost:65535", Listen(host="localhost", port=65535)),
    (read_listen, "unix:/run/a b", Listen(path="/run/a b")),
    (read_network, "10.0.0.0/8", ip_network("10.0.0.0/8")),
    (read_network, "192.0.2.1", ip_network("192.0.2.1/32")),
    (read_network, "2001:db8::/32", ip_network("2001:db8::/32")),
    (read_network, "::ffff:10.0.0.0/104", ip_network("10.0.0.0/8")),
    (read_network, "::ffff:192.0.2.1", ip_network("192.0.2.1/32")),
    (read_network, "::/0", ip_network("::/0")),
]
WRONG: dict[Callable[[Any], Any], list[Any]] = {
    read_duration: [
        "", "60", "s", " 60s", "60s ", "60 s", "-1s", "+1s", "1e3s", "1.s", ".5s", "60S", "1w", "1h30m", "٣s", "1s\n",
        "9999999999s", 60, 60.0, True, None, ["60s"],
    ],
    read_rate: [
        "", "1", "/60s", "1/", "0/60s", "-1/60s", "1.5/60s", "1/0s", "1/60", "1/1/60s", "01/60s", " 1/60s", "²/1s",
        "1 / 60s", 1, 1.0, None,
    ],
    read_size: ["", "64", "64kb", "64KB", "64 KiB", "-1B", "1.5KiB", "٣B", "KiB", 64, True, None],
    read_listen: [
        "", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "127.0.0.1:-1", "::1:80", "[::1]",
        "[::1:80", "::1]:80", "[127.0.0.1]:80", "http://a:80", "a b:80", "a:٣", "unix:", 8080, None,
    ],
    read_network: ["", "10.0.0.0/33", "10.0.0", "lan", "10.0.0.0 /8", "10.0.0.1/8", 1, None, ["10.0.0.0/8"]],
}  # fmt: skip


@pytest.mark.parametrize(("read", "text", "value"), RIGHT, ids=[f"{read.__name__}-{text}" for read, text, _ in RIGHT])
def test_what_the_contract_writes_is_read(read: Callable[[Any], Any], text: str, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize("read", WRONG, ids=lambda read: read.__name__)
def test_anything_else_is_refused_with_what_would_be_right(read: Callable[[Any], Any]) -> None:
    for value in WRONG[read]:
        with pytest.raises(UnfitError) as refused:
            pytest.fail(f"{value!r} was read as {read(value)!r}")
        assert refused.value.right.startswith("write ")


def test_an_address_inside_a_network_is_answered_with_its_network() -> None:
    with pytest.raises(UnfitError, match=r'write the network "10\.0\.0\.0/8"'):
        read_network("10.0.0.1/8")


@given(st.integers(0, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_is_read_back_as_it_was(count: int, unit: str) -> None:
    seconds = read_duration(f"{count}{unit}")
    assert read_duration(spell_duration(seconds)) == pytest.approx(seconds, rel=1e-9)


@given(st.integers(0, 10**12 - 1))
def test_a_size_is_read_back_as_it_was(size: int) -> None:
    assert read_size(spell_size(size)) == size


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_rate_is_read_back_as_it_was(count: int, period_s: int) -> None:
    rate = Rate(count, float(period_s))
    assert read_rate(str(rate)) == rate


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "[::1]:8080", "unix:/run/a.sock", ":80"])
def test_a_listener_is_written_as_it_was_read(text: str) -> None:
    assert str(read_listen(text)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250ms"), (60.0, "1m"), (90.0, "90s"), (86400.0, "1d"), (0.0, "0s"), (0.0005, "0.0005s")],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert spell_duration(seconds) == text


class Units(BaseModel):
    duration: Duration = 1.0
    size: Size = 1
    rate: RateText = Rate(1, 1.0)
    listen: ListenText = Listen()
    network: Network = ip_network("::/0")


@pytest.mark.parametrize("values", [{"duration": 30.0}, {"size": 65536}])
def test_a_bare_number_is_taken_from_code_and_not_from_a_file(values: dict[str, Any]) -> None:
    assert Units.model_validate(values).model_fields_set == set(values)
    with pytest.raises(ValidationError):
        Units.model_validate(values, context=FROM_TOML)
