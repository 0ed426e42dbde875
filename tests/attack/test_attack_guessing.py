"""The attacker who wants one code guessed: over instances, ids, channels and ways in. Over real sockets."""

import asyncio
from collections import Counter

from attackers import at_once, code_of, wrong
from telling import CONFIG, E164, OTHER, PHONE, SEND, VERIFY, Start

V1 = "/.sidecar/v1/verifications"
BUDGET = CONFIG + '[code]\nfailures = "7/1h"\n'
ANY_CHANNEL = (SEND + VERIFY).replace('to = "json:phone"', 'to = "json:phone"\nchannel = "auto"')


async def test_two_instances_and_two_ways_in_have_one_budget_of_wrong_codes(start: Start) -> None:
    """By either instance, by the route or the API's check, in any spelling: seven guesses of seven."""
    sidecars = [await start(config=BUDGET), await start(config=BUDGET)]
    spellings = [PHONE, E164, "139 0000 0001"]
    found: Counter[str] = Counter()
    for n in range(20):
        asked = await sidecars[n % 2].send(spellings[n % 3])
        code = await code_of(sidecars, E164)
        guessing = sidecars[n // 2 % 2]
        if n % 3:
            reply = await guessing.register(wrong(code), spellings[n % 3])
        else:
            reply = await guessing.ask("POST", f"{V1}/{asked.json['id']}/check", json={"code": wrong(code)})
        found[reply.code] += 1
    assert found == {"code_mismatch": 7, "too_many_attempts": 13}
    assert not any(sidecar.upstream.requests for sidecar in sidecars)


async def test_a_hundred_guesses_at_once_on_two_instances_are_five(start: Start) -> None:
    """Each has another number of tries left; no two are judged by the same one."""
    sidecars = [await start(), await start()]
    await sidecars[0].send()
    code = await code_of(sidecars, E164)
    replies = await at_once(100, lambda n: sidecars[n % 2].register(wrong(code)))
    judged = [reply.json["attempts_left"] for reply in replies if reply.code == "code_mismatch"]
    assert sorted(judged) == [0, 1, 2, 3, 4]
    assert {reply.code for reply in replies} <= {"code_mismatch", "too_many_attempts"}
    assert (await sidecars[1].register(code)).code == "too_many_attempts"


async def test_a_proof_of_one_recipient_is_none_of_another(start: Start) -> None:
    """Neither the code, nor the token of the API, nor the id of another's verification."""
    sidecar = await start(ANY_CHANNEL)
    mine, other = await sidecar.send(), await sidecar.send(OTHER)
    code = await sidecar.vendor.code()
    other_code = await sidecar.vendor.code("+8613900000002")
    token = (await sidecar.ask("POST", f"{V1}/{mine.json['id']}/check", json={"code": code})).json["token"]
    headers = {"X-Verification-Token": token}
    assert (await sidecar.register(None, OTHER, headers=headers)).status in {401, 410, 422}
    if code != other_code:
        check = await sidecar.ask("POST", f"{V1}/{other.json['id']}/check", json={"code": code})
        assert check.code == "code_mismatch"
    for recipient in ("ann@example.org", "+16502530001"):
        assert (await sidecar.register(other_code, recipient)).code == "code_expired"
    assert not sidecar.upstream.requests
    assert (await sidecar.register(None, PHONE, headers=headers)).status == 200


async def test_an_id_that_was_never_given_out_leads_nowhere(start: Start) -> None:
    """Ids are 18 random octets: no two begin alike, and one that is changed in one place is nobody's."""
    sidecar = await start()
    ids = [str((await sidecar.send(f"1390000{n:04}")).json["id"]) for n in range(20)]
    assert len({text[:6] for text in ids}) == 20
    for known in ids:
        near = known[:-1] + ("A" if known[-1] != "A" else "B")
        assert (await sidecar.ask("GET", f"{V1}/{near}")).code == "not_found"
        assert (await sidecar.ask("POST", f"{V1}/{near}/check", json={"code": "000000"})).status in {404, 410}


async def test_who_guesses_over_many_numbers_is_one_asker(start: Start) -> None:
    """`failures_per_ip` holds over both instances, though each number is asked for the first time."""
    sidecars = [await start(config=CONFIG + '[code]\nfailures_per_ip = "5/10m"\n') for _ in range(2)]
    numbers = [f"1390000{n:04}" for n in range(12)]
    for number in numbers:
        await sidecars[0].send(number)
    codes = [await code_of(sidecars, f"+86{number}") for number in numbers]
    replies = await asyncio.gather(
        *(sidecars[n % 2].register(wrong(codes[n]), number) for n, number in enumerate(numbers))
    )
    assert Counter(reply.code for reply in replies) == {"code_mismatch": 5, "too_many_attempts": 7}
