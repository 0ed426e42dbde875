"""docs/failure.md, the store whose primary Sentinels name: what was 202 is sent, whoever dies, and it all heals."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from awake import awake
from failing import GUARD, sees_no_store, told
from sentinels import a_group, is_followed, until
from structlog.testing import capture_logs
from telling import MAIN, SEND, VERIFY, Sidecar, Start

# Nobody solves captchas here: they would be most of the load.
TABLES = SEND.replace('captcha = "altcha"\ncaptcha_token = "json:captcha"\n', "") + VERIFY + GUARD
# What is promised from the promotion on, and as much again for a busy machine.
BACK_WITHIN_S = 3.0 + 3.0
# The lease of a message that nobody renews, and as much again.
SENT_WITHIN_S = 10.0 + 10.0


class Load:
    """Sends to ever new numbers, and guarded requests, each as soon as the one before is answered."""

    def __init__(self, sidecar: Sidecar, clock: Callable[[], float]) -> None:
        self.sidecar = sidecar
        self.clock = clock
        self.accepted: set[str] = set()
        self.guarded_at: list[float] = []  # when such a request was let in, in seconds of the clock
        self.refusals: set[tuple[int, str]] = set()
        self._tasks = [asyncio.create_task(self._send(sender)) for sender in range(4)]
        self._tasks.append(asyncio.create_task(self._guard()))

    async def _send(self, sender: int) -> None:
        number = 0
        while True:
            number += 1
            phone = f"139{sender:04}{number:04}"
            reply = await self.sidecar.ask("POST", "/send", json={"phone": phone})
            if reply.status == 202:
                self.accepted.add(f"+86{phone}")
            else:
                self.refusals.add((reply.status, reply.code))
            await asyncio.sleep(0.02)

    async def _guard(self) -> None:
        while True:
            if (await self.sidecar.ask("POST", "/guarded")).status == 200:
                self.guarded_at.append(self.clock())
            await asyncio.sleep(0.01)

    async def until_accepted(self, more: int) -> None:
        count = len(self.accepted) + more

        async def are() -> bool:
            return len(self.accepted) >= count

        await until(are)

    async def guarded_after(self, moment: float) -> float:
        async def is_let_in() -> bool:
            return bool(self.guarded_at) and self.guarded_at[-1] > moment

        await until(is_let_in)
        return next(at for at in self.guarded_at if at > moment)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def everything_is_sent(self) -> None:
        """Every message that was accepted reaches the vendor; none oftener than it was leased."""
        vendor = self.sidecar.vendor
        async with asyncio.timeout(SENT_WITHIN_S), vendor.changed:
            await vendor.changed.wait_for(lambda: self.accepted <= {message["to"] for message in vendor.messages})
        assert self.refusals <= {(503, "store_unavailable")}
        sent = [message["to"] for message in vendor.messages]
        doubles = len(sent) - len(set(sent))
        print(f"\n{len(self.accepted)} accepted, all sent, {doubles} twice")  # noqa: T201 - shown with -s
        assert max(sent.count(to) for to in set(sent)) <= 2


async def test_the_primary_is_killed(start: Start, tmp_path: Path) -> None:
    """Under load: every 202 is sent, a code from before works, guarded routes are back soon after the promotion."""
    async with a_group(tmp_path / "group") as group:
        with awake() as clock:
            sidecar = await start(TABLES, url=group.url)
            assert (await sidecar.ask("POST", "/send", json={"phone": "13900000001"})).status == 202
            code = await sidecar.vendor.code()
            load = Load(sidecar, clock)
            with capture_logs() as lines:
                await load.until_accepted(20)
                await group.servers[0].kill()
                new = await group.promoted(group.servers[0])
                promoted_at = clock()
                back_at = await load.guarded_after(promoted_at)
                await load.until_accepted(20)
                await until(lambda: is_followed(new, 1))  # it has its data now, and need not be waited for in vain
                await load.end()
            print(f"\nguarded {back_at - promoted_at:.2f} s after the promotion")  # noqa: T201 - shown with -s
            assert back_at - promoted_at < BACK_WITHIN_S
            assert (await sidecar.register(code)).status == 200
            await load.everything_is_sent()
            assert told(lines, "store_away")
            assert not told(lines, "task_ended")
            assert (await sidecar.admin("/readyz?needs=store")).status == 200


async def test_the_primary_is_frozen_and_comes_back(start: Start, tmp_path: Path) -> None:
    """Replaced meanwhile, it takes itself for the primary still: nothing that is accepted is written to it."""
    async with a_group(tmp_path / "group", 1) as group:
        with awake() as clock:
            old, new = group.servers
            sidecar = await start(TABLES, url=group.url)
            load = Load(sidecar, clock)
            await load.until_accepted(20)
            old.send(signal.SIGSTOP)
            await group.promoted(old)
            promoted_at = clock()
            back_at = await load.guarded_after(promoted_at)
            await load.until_accepted(10)
            old.send(signal.SIGCONT)
            await until(lambda: is_followed(new, 1))
            await load.until_accepted(10)
            await load.end()
            print(f"\nguarded {back_at - promoted_at:.2f} s after the promotion")  # noqa: T201 - shown with -s
            assert back_at - promoted_at < BACK_WITHIN_S
            await load.everything_is_sent()


async def test_no_replica_answers(start: Start, tmp_path: Path) -> None:
    """Frozen, with the primary alive: guarded routes go on, and no message is accepted that one machine alone has."""
    async with a_group(tmp_path / "group", 1) as group:
        sidecar = await start(TABLES, url=group.url)
        assert (await sidecar.ask("POST", "/send", json={"phone": "13900000001"})).status == 202
        _, replica = group.servers
        replica.send(signal.SIGSTOP)
        with awake() as took:
            refused = await sidecar.ask("POST", "/send", json={"phone": "13900000002"})
            assert took() < 1.0
        assert (refused.status, refused.code) == (503, "store_unavailable")
        assert (await sidecar.ask("POST", "/guarded")).status == 200
        ready = (await sidecar.admin("/readyz")).json["store"]
        assert (ready["takes_writes"], ready["reason"]) == (False, "not on enough replicas in time")
        replica.send(signal.SIGCONT)
        await is_well(sidecar)
        assert (await sidecar.ask("POST", "/send", json={"phone": "13900000003"})).status == 202


async def test_nobody_knows_the_primary(start: Start, tmp_path: Path) -> None:
    """Without any Sentinel what is connected goes on; without the primary too, readyz says whom it asked in vain."""
    async with a_group(tmp_path / "group", 0) as group:
        sidecar = await start(MAIN + GUARD, url=group.url)
        await is_well(sidecar)
        for sentinel in group.sentinels:
            await sentinel.kill()
            assert (await sidecar.ask("POST", "/guarded")).status == 200
        await group.servers[0].kill()
        reason = f"no Sentinel answers: refused {group.sentinels[0].place}"

        async def is_told() -> bool:  # what the Sentinels said last is believed for a tenth of a second
            return bool((await sidecar.admin("/readyz")).json["store"]["reason"] == reason)

        await until(is_told)
        await sees_no_store(sidecar, reason)
        await group.servers[0].start()
        await group.sentinels[2].start()
        await is_well(sidecar)


async def is_well(sidecar: Sidecar) -> None:
    """Wait until both connections lead to the primary: messages, which readyz tries, and decisions have one each."""

    async def takes_writes() -> bool:
        return (await sidecar.admin("/readyz?needs=store")).status == 200

    async def decides() -> bool:
        return (await sidecar.ask("POST", "/guarded")).status == 200

    await until(takes_writes)
    await until(decides)
