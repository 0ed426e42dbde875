"""The attacker who wants a stranger kept out: of a number, of an address, of a code. Over real sockets."""

from collections import Counter

from attackers import at_once, wrong
from fakes import OK, Message, Taken, read_content
from telling import CONFIG, E164, OTHER, PHONE, Start

VICTIM_IP = "198.51.100.1"
ATTACKER_IP = "203.0.113.9"
TRUSTING = CONFIG.replace("[server]", '[server]\ntrusted_proxies = ["127.0.0.0/8"]')
# As a proxy appends to what a client says.
VICTIM = {"X-Forwarded-For": VICTIM_IP}
ATTACKER = {"X-Forwarded-For": f"{VICTIM_IP}, {ATTACKER_IP}"}


async def test_nobody_uses_up_a_strangers_number_without_captchas(start: Start) -> None:
    """A hundred requests for it, without a token, with a wrong one, and with one that was used: its bucket is whole."""
    sidecar = await start(
        to_rate="1/1h", config=CONFIG.replace("max_counter = 10", 'max_counter = 10\nfailures = "1000/1s"')
    )
    used = await sidecar.solved()
    assert (await sidecar.ask("POST", "/send", json={"phone": OTHER, "captcha": used})).status == 202
    bodies = [{"phone": PHONE}, {"phone": PHONE, "captcha": "bm8="}, {"phone": PHONE, "captcha": used}]
    replies = await at_once(100, lambda n: sidecar.ask("POST", "/send", json=bodies[n % 3]))
    assert {reply.code for reply in replies} == {"captcha_required", "captcha_failed"}
    assert (await sidecar.send()).status == 202


async def test_nobody_uses_up_a_strangers_address_by_naming_it(start: Start) -> None:
    """Who asks is whom the nearest proxy that is trusted names, whatever else the fields say."""
    sidecar = await start(ip_rate="2/1h", config=TRUSTING)
    names = ("Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP", "Client-IP")
    named = ATTACKER | {name: f"for={VICTIM_IP}" if name == "Forwarded" else VICTIM_IP for name in names}
    replies = [await sidecar.send(f"1390000{n:04}", headers=named) for n in range(6)]
    assert Counter(reply.status for reply in replies) == {202: 2, 429: 4}
    assert [(await sidecar.send(headers=VICTIM)).status for _ in range(3)] == [202, 202, 429]


async def test_asking_for_a_strangers_code_changes_nothing_of_it(start: Start) -> None:
    """The message that is on its way still works, however often others ask for another."""
    sidecar = await start(config=TRUSTING)
    assert (await sidecar.send(headers=VICTIM)).status == 202
    code = await sidecar.vendor.code()
    for _ in range(5):
        assert (await sidecar.send(E164, headers=ATTACKER)).status == 202
    assert await sidecar.vendor.code(count=6) == code
    assert (await sidecar.register(code)).status == 200


async def test_guesses_do_not_hold_a_code(start: Start) -> None:
    """While strangers guess, the right one is not in use: wrong ones hold nothing."""
    sidecar = await start(config=CONFIG + "[code]\nattempts = 10\n")
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code()

    replies = await at_once(9, lambda n: sidecar.register(code if n == 4 else wrong(code)))
    assert replies[4].status == 200
    assert {reply.status for reply in replies[:4] + replies[5:]} <= {422, 409, 410}


async def test_what_is_no_guess_takes_no_try_from_a_stranger(start: Start) -> None:
    """Letters, blanks, other lengths, other types."""
    sidecar = await start(config=TRUSTING)
    assert (await sidecar.send()).status == 202
    code = await sidecar.vendor.code()
    for nonsense in ("abcdef", "12345", "1234567", "", " ", "12345a", "1" * 64):
        assert (await sidecar.register(nonsense, headers=ATTACKER)).code in {"code_mismatch", "code_required"}
    for typed in (True, 1.5, [code], {"code": code}):
        body = {"phone": PHONE, "code": typed}
        assert (await sidecar.ask("POST", "/register", json=body, headers=ATTACKER)).status in {400, 401, 422}
    assert not sidecar.upstream.requests
    assert (await sidecar.register(wrong(code))).json["attempts_left"] == 4
    assert (await sidecar.register(code)).status == 200


async def test_an_upstream_that_never_answers_holds_a_code_for_its_owner_alone(start: Start) -> None:
    """The request that holds it has shown the right code; the others' numbers are as free as before."""
    sidecar = await start()
    for phone in (PHONE, OTHER):
        assert (await sidecar.send(phone)).status == 202
    code, other_code = await sidecar.vendor.code(), await sidecar.vendor.code("+8613900000002")

    async def answer(taken: Taken, message: Message) -> None:
        await read_content(taken.reader, message)
        if PHONE.encode() not in message.content:
            await taken.write(OK)

    sidecar.upstream.answer = answer
    replies = await at_once(3, lambda n: sidecar.register(code) if n < 2 else sidecar.register(other_code, OTHER))
    assert sorted(reply.status for reply in replies) == [200, 409, 504]
