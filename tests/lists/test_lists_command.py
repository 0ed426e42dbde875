"""`signup-sidecar block`, beside two sidecars on one store, and beside one with a store of its own."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from children import PATIENCE_S, Child, Run, said
from stores import a_store

GUARD: Final = """
[[routes]]
match = "POST /login"
action = "guard"
"""
TRUST: Final = '["127.0.0.0/8"]'
# The promise is a second; a machine that runs other tests beside this one may take others for a turn.
SECOND_S: Final = 3.0


@pytest_asyncio.fixture(autouse=True)
async def nothing_blocked(store_url: str) -> AsyncIterator[None]:
    """The blocks of the one store that all sidecars of a run share are swept before and after each test."""
    async with a_store(store_url) as store:
        await store.execute(store.names.blocks(), "DEL", store.names.blocks())
        yield
        await store.execute(store.names.blocks(), "DEL", store.names.blocks())


async def status(child: Child, ip: str, path: str = "/login") -> int:
    headers = {"X-Forwarded-For": ip}
    async with aiohttp.ClientSession() as session, session.post(child.url + path, headers=headers) as answer:
        await answer.read()
        return answer.status


def stored(state: Path) -> bytes:
    """All that lies in the files of a state directory."""
    return b"".join(path.read_bytes() for path in state.rglob("*") if path.is_file())


async def block(child: Child, *words: str) -> tuple[int, str, str]:
    verb, *rest = words
    return await said("block", verb, str(child.path), *rest)


async def until(child: Child, ip: str, wanted: int) -> tuple[float, float]:
    """Ask until an address is answered so: when one was last asked that was not, and when it was first answered so."""
    asked_at = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            asking_at = time.monotonic()
            if await status(child, ip) == wanted:
                return asked_at, time.monotonic()
            asked_at = asking_at
            await asyncio.sleep(0.02)


async def until_both(children: Sequence[Child], ip: str, wanted: int) -> tuple[float, float]:
    """Ask several as `until` does: the latest that was not answered so, and the earliest that was."""
    asked_at, answered_at = zip(*await asyncio.gather(*(until(one, ip, wanted) for one in children)), strict=True)
    return max(asked_at), min(answered_at)


async def test_both_instances_refuse_a_block_within_a_second_until_its_end(run: Run) -> None:
    """The end is the same for both, and is not waited for; each tells of its beginning and its end."""
    first = await run(GUARD, trusted_proxies=TRUST)
    second = await run(GUARD, trusted_proxies=TRUST)
    both = (first, second)
    assert [await status(one, "203.0.113.9") for one in (first, second)] == [200, 200]
    refusing = asyncio.create_task(until_both(both, "203.0.113.9", 403))
    began_at = time.monotonic()
    code, out, err = await block(first, "add", "203.0.113.0/24", "--for", "6s")
    added_at = time.monotonic()
    assert (code, err) == (0, "")
    assert out.startswith("203.0.113.0/24 is blocked until ")
    passed_at, _ = await refusing
    assert passed_at <= added_at + SECOND_S
    assert [await status(one, "203.0.114.9") for one in (first, second)] == [200, 200]
    assert [await status(one, "203.0.113.9", "/plain") for one in (first, second)] == [200, 200]
    refused_at, passed_at = await until_both(both, "203.0.113.9", 200)
    assert passed_at >= began_at + 6.0
    assert refused_at <= added_at + 6.0 + SECOND_S
    for one in both:
        began = await one.line("block_began")
        assert began["what"] == "203.0.113.0/24"
        assert began["seconds"] in range(3, 7)  # what was left when it was seen
        over = await one.line("block_ended")
        assert (over["what"], over["why"]) == ("203.0.113.0/24", "over")


async def test_a_block_without_an_end_lasts_until_it_is_removed(run: Run) -> None:
    child = await run(GUARD, trusted_proxies=TRUST)
    assert (await block(child, "add", "2001:db8::/32"))[1].endswith("until it is removed (--for 1h gives it an end)\n")
    assert (await block(child, "add", "+8816", "--for", "1h"))[0] == 0
    await until(child, "2001:db8::1", 403)
    code, out, _ = await block(child, "list")
    assert code == 0
    heads, timed, endless = (re.split(r" {2,}", line) for line in out.splitlines())
    assert heads == ["WHAT", "UNTIL", "LEFT"]
    assert (timed[0], 3500 < int(timed[2].removesuffix(" s")) <= 3600) == ("+8816", True)
    assert endless == ["2001:db8::/32", "it is removed", "-"]
    assert (await block(child, "remove", "2001:db8::/32"))[:2] == (0, "2001:db8::/32 is blocked no longer\n")
    await until(child, "2001:db8::1", 200)
    code, _, err = await block(child, "remove", "2001:db8::/32")
    assert (code, "was not blocked" in err) == (1, True)
    assert (await block(child, "remove", "+8816"))[0] == 0
    assert (await block(child, "list"))[::2] == (0, "block: nothing is blocked\n")
    assert (await child.line("block_ended"))["why"] == "removed"


async def test_a_whole_number_is_refused_and_is_nowhere_in_clear(run: Run) -> None:
    """Nor in what the command prints, in the log, or in the store."""
    send = '[[routes]]\nmatch = "POST /send"\naction = "send"\nto = "json:phone"\n'
    child = await run(send, store="embedded")
    assert await child.asks("/send", {"phone": "13900000001"}) == 202
    code, out, _ = await block(child, "add", "+86 139 0000 0001")
    assert (code, "+861********01" in out) == (0, True)

    async def is_refused() -> bool:
        return await child.asks("/send", {"phone": "13900000001"}) == 403

    await child.until(is_refused)
    assert await child.asks("/send", {"phone": "13900000002"}) == 202
    listed = (await block(child, "list"))[1]
    assert "+861********01" in listed
    began = await child.line("block_began")
    assert began["what"] == "+861********01"
    assert (await block(child, "remove", "+8613900000001"))[0] == 0
    child.process.terminate()
    assert await child.ended() == 0
    written = stored(child.path.parent / "state")
    assert b"sidecar:blocks" in written
    assert b"13900000001" not in written
    assert "13900000001" not in child.log + out + listed


@pytest.mark.parametrize(
    ("words", "code", "right"),
    [
        (("add", "203.0.113.7/24"), 2, '"203.0.113.0/24"'),
        (("add", "13900000001"), 2, 'write "+" and the country code first'),
        (("add", "everybody"), 2, "203.0.113.0/24"),
        (("add",), 2, "Give an address range"),
        (("remove",), 2, "Give an address range"),
        (("list", "+86"), 2, "leave WHAT out"),
        (("add", "+8816", "--for", "1 hour"), 2, "1h"),
        (("add", "+8816", "--for", "0s"), 2, "leave it out for good"),
        (("remove", "+8816", "--for", "1h"), 2, "--for is for add"),
    ],
)
async def test_what_cannot_be_blocked_is_refused_with_what_would_be_right(
    tmp_path: Path, store_url: str, words: tuple[str, ...], code: int, right: str
) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(f'[server]\nstate_dir = "{tmp_path / "state"}"\n[store]\nurl = "{store_url}"\n')
    verb, *rest = words
    answer: Any = await said("block", verb, str(path), *rest)
    assert answer[:2] == (code, "")
    assert answer[2].startswith("block: ")
    assert right in answer[2]


async def test_an_asn_file_that_changes_is_in_force_without_a_signal(run: Run, tmp_path: Path) -> None:
    """A bad one is not, at no signal either: what it said before stays, and the log and `check` tell its line."""
    networks = tmp_path / "asn.csv"
    networks.write_text("203.0.113.0/24,64500\n")
    child = await run(GUARD + f'[[block]]\nasn = [64500]\nasn_file = "{networks}"\n', trusted_proxies=TRUST)
    assert [await status(child, ip) for ip in ("203.0.113.9", "198.51.100.9")] == [403, 200]
    networks.write_text("198.51.100.0,198.51.100.255,64500\n203.0.113.0/24,64501\n")
    await child.line("asn_file_read")
    assert [await status(child, ip) for ip in ("203.0.113.9", "198.51.100.9")] == [200, 403]
    networks.write_text("198.51.100.0,64500\n")
    refused = await child.line("asn_file_refused")
    assert (refused["level"], refused["file"], refused["line"]) == ("error", str(networks), 1)
    told = (await child.reload("reload_refused"))["problems"]
    assert len(told) == 1
    assert "block[0].asn_file: " in told[0]
    assert 'line 1: "64500" is no address' in told[0]
    code, _, err = await said("check", str(child.path))
    assert (code, err.strip()) == (2, told[0])
    assert [await status(child, ip) for ip in ("203.0.113.9", "198.51.100.9")] == [200, 403]
    networks.write_text("203.0.113.0/24,64500\n")
    await child.reload("reloaded")
    assert [await status(child, ip) for ip in ("203.0.113.9", "198.51.100.9")] == [403, 200]


async def test_a_store_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(f'[server]\nstate_dir = "{tmp_path / "state"}"\n[store]\nurl = "unix://{tmp_path / "none.sock"}"\n')
    code, out, err = await said("block", "add", str(path), "+8816")
    assert (code, out) == (1, "")
    assert err.startswith("block: ")


async def test_help_shows_what_to_type() -> None:
    code, out, _ = await said("block", "--help")
    assert code == 0
    assert "signup-sidecar block add sidecar.toml 203.0.113.0/24 --for 1h" in out
