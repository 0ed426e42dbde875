"""Two buckets a decision, 64 decisions at a time: `decisions.py NAME SOCKET SECONDS`. Prints JSON: decisions, seconds, cpu_s.

An address's bucket, 256 addresses in turn, and a number's, each its own; all allow. The sidecar decides both in one step, all
or none. The others are asked for one after the other, as they decide one at a time, each in the way of its that costs least:
throttled-py by GCRA, as we do, limits by its fixed window. All on uvloop and hiredis.
"""

import asyncio
import itertools
import json
import sys
import time

import uvloop

AT_ONCE = 64
name, socket, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
asked = ((f"10.0.0.{n % 256}", f"+86138{n:08d}") for n in itertools.count())


def ours():
    from sidecar.config.model import Limit
    from sidecar.limits.buckets import Buckets, Meter
    from sidecar.store.client import Store

    store = Store(f"unix://{socket}")
    buckets = Buckets(store)
    per_ip = Meter.of("ip", Limit.model_validate({"key": "ip", "rate": "1000000/1s"}), store.names)
    per_number = Meter.of("to", Limit.model_validate({"key": "to", "rate": "1/60s"}), store.names)

    async def decide(ip, to):
        return (await buckets.spend([per_ip.bucket(ip), per_number.bucket(to)])).allowed

    return decide


def throttled():
    from throttled.asyncio import RateLimiterType, RedisStore, Throttled, per_duration, per_sec
    from datetime import timedelta

    gcra, store = RateLimiterType.GCRA.value, RedisStore(server=f"unix://{socket}", options={"REUSE_CONNECTION": True})
    per_ip = Throttled(using=gcra, quota=per_sec(1_000_000, burst=1_000_000), store=store)
    per_number = Throttled(using=gcra, quota=per_duration(timedelta(seconds=60), 1, burst=1), store=store)

    async def decide(ip, to):
        return not (await per_ip.limit(f"ip:{ip}")).limited and not (await per_number.limit(f"to:{to}")).limited

    return decide


def limits():
    from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    limiter = FixedWindowRateLimiter(RedisStorage(f"async+redis+unix://{socket}", implementation="redispy"))
    per_ip, per_number = RateLimitItemPerSecond(1_000_000), RateLimitItemPerMinute(1)

    async def decide(ip, to):
        return await limiter.hit(per_ip, "ip", ip) and await limiter.hit(per_number, "to", to)

    return decide


async def main():
    decide = {"ours": ours, "throttled-py": throttled, "limits": limits}[name]()
    count, until = 0, 0.0

    async def decided():
        nonlocal count
        while time.perf_counter() < until:
            if not await decide(*next(asked)):
                raise RuntimeError(f"{name} refused, and each number is asked for once")
            count += 1

    until = time.perf_counter() + 0.5
    await asyncio.gather(*[decided() for _ in range(AT_ONCE)])
    count, cpu, began = 0, time.process_time(), time.perf_counter()
    until = began + seconds
    await asyncio.gather(*[decided() for _ in range(AT_ONCE)])
    took = time.perf_counter() - began
    print(json.dumps({"decisions": count, "seconds": took, "cpu_s": time.process_time() - cpu}))


uvloop.run(main())
