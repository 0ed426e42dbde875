"""The attacker who asks in order to learn something of a stranger: whether a number is known, or a code was right."""

from typing import Any

from attackers import wrong
from telling import CONFIG, E164, MAIN, OTHER, PHONE, TEST_NUMBER, Reply, Start

V1 = "/.sidecar/v1/verifications"
# What differs between any two answers, whoever asks.
OF_ONE_ANSWER = ("id", "to", "request_id", "expires_in", "resend_in")


def looks(reply: Reply) -> tuple[int, dict[str, Any], list[str]]:
    """What a client sees of an answer, but for what differs between any two."""
    said = {name: value for name, value in reply.json.items() if name not in OF_ONE_ANSWER}
    return reply.status, said, sorted(set(reply.json) | set(reply.headers))


async def test_a_send_is_answered_alike_whoever_the_number_is_of(start: Start) -> None:
    """Never seen, just asked for, verified a moment ago, a number for tests: the same status, members and fields."""
    sidecar = await start()
    assert (await sidecar.send()).status == 202
    assert (await sidecar.register(await sidecar.vendor.code())).status == 200
    assert (await sidecar.send("13900000003")).status == 202
    seen = [looks(await sidecar.send(number)) for number in (OTHER, "13900000003", PHONE, TEST_NUMBER)]
    assert all(one == seen[0] for one in seen), seen


async def test_past_the_budget_right_and_wrong_codes_are_answered_alike(start: Start) -> None:
    """So that nobody goes on guessing by the difference; to the route and to the API's check."""
    sidecar = await start(config=CONFIG + '[code]\nfailures_per_ip = "2/10m"\n')
    sent = await sidecar.send()
    code = await sidecar.vendor.code()
    for _ in range(2):
        assert (await sidecar.register(wrong(code))).code == "code_mismatch"
    path = f"{V1}/{sent.json['id']}/check"
    right = [await sidecar.register(code), await sidecar.ask("POST", path, json={"code": code})]
    false = [await sidecar.register(wrong(code)), await sidecar.ask("POST", path, json={"code": wrong(code)})]
    assert [looks(reply) for reply in right] == [looks(reply) for reply in false]
    assert right[0].code == "too_many_attempts"


async def test_no_answer_shows_a_recipient(start: Start) -> None:
    """Masked where it is said at all: in the answers to a send, in a verification's status, in every refusal."""
    sidecar = await start(MAIN, to_rate="2/1h")
    sent = await sidecar.send()
    code = await sidecar.vendor.code()
    replies = [
        sent,
        await sidecar.ask("GET", f"{V1}/{sent.json['id']}"),
        await sidecar.register(wrong(code)),
        await sidecar.register(None),
        await sidecar.send(),
        await sidecar.send(),
        await sidecar.send("+8613900000001x"),
        await sidecar.register(code, OTHER),
    ]
    assert {reply.status for reply in replies} == {200, 202, 401, 410, 422, 429}
    for reply in replies:
        said = reply.body.decode() + str(dict(reply.headers))
        assert not [private for private in (PHONE, E164, OTHER, code) if private in said], said
