"""A cluster: where a key is, and what becomes of a command that comes to a node which does not have it."""

import asyncio
import hashlib
import itertools
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from awake import awake
from certificates import LOOPBACK, Authority, serving
from clusters import Servers, ToldNode, a_cluster, free_ports, resp, shares, told_nodes
from cryptography import x509
from fakes import DEADLINE_S
from hypothesis import given
from hypothesis import strategies as st
from stores import a_store, a_switch
from telling import MAIN, Start

from sidecar.errors import StoreAwayError
from sidecar.events import Event, StoreAway, StoreBack
from sidecar.store.client import Script, Store
from sidecar.store.cluster import SLOTS, read_redirect, read_slots, slot_of
from sidecar.store.faults import Fault
from sidecar.store.names import Names
from sidecar.store.seeds import Place, Seeds
from sidecar.store.trouble import Trouble

OK = b"+OK\r\n"
PUMPING = '[pumping]\nmode = "enforce"\nunverified = "100000/1d"\n'
# Keys of the first and of the second half of the slots.
FIRST = next(key for key in map("key{}".format, itertools.count()) if slot_of(key) < SLOTS // 2)
SECOND = next(key for key in map("key{}".format, itertools.count()) if slot_of(key) >= SLOTS // 2)
# An address of a network that this machine has not.
NOWHERE = "fe80::1%nowhere"


def url_of(*nodes: ToldNode) -> str:
    return f"redis+cluster://{','.join(node.place for node in nodes)}"


def error(text: str) -> bytes:
    return f"-{text}\r\n".encode()


def to(word: str, key: str, node: ToldNode) -> bytes:
    return error(f"{word} {slot_of(key)} {node.place}")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.005)


async def mapped(store: Store) -> None:
    """Have it read the map."""
    assert await store.why_not() == ""


# Where a key is…


@given(st.text().filter(lambda tag: tag and "}" not in tag), st.text(), st.text().filter(lambda text: "{" not in text))
def test_keys_with_one_tag_are_in_one_slot(tag: str, after: str, before: str) -> None:
    """Whatever stands around the braces; the first that closes ends the tag."""
    assert slot_of(f"{before}{{{tag}}}{after}") == slot_of(tag)


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),
        ("{}key", slot_of("{}other")),
        ("foo{", None),
        ("foo}{bar", None),
        ("{{a}}b", "{a"),
        ("", 0),
    ],
)
def test_what_is_no_tag_is_none(key: str, slot: int | str | None) -> None:
    """The specification's own examples: CRC16 of "123456789" is 0x31C3; empty braces, and open ones, are no tag."""
    if key == "{}key":
        assert slot_of(key) != slot  # the whole key counts
    else:
        assert slot_of(key) == (slot if isinstance(slot, int) else slot_of(slot)) if slot is not None else True


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: set(text) != {"}"}))
def test_a_scripts_keys_are_in_one_slot(hashed: str) -> None:
    """What `names` gives to one script."""
    names = Names("p")
    together = [
        [names.bucket("a", hashed), names.load("b", hashed), names.refunded(hashed)],
        [names.verification("ab" + hashed), names.current("ab"), names.idempotency("ab" + hashed)],
        [names.outbox(), names.later(), names.waiting(), names.dead(), names.answered(names.idempotency(hashed))],
        [names.posted(hashed), names.vendor_id(hashed), names.early(), names.early_times()],
        [names.sends(hashed), names.sends("money")],
    ]
    for keys in together:
        assert len({slot_of(key) for key in keys}) == 1


_WORDS = st.one_of(
    st.none(), st.integers(-1, 70_000), st.binary(max_size=300), st.sampled_from([b"", b"?", b"h", b"::1"])
)
_REPLIES = st.recursive(_WORDS, lambda inner: st.lists(inner, max_size=4), max_leaves=30)


@given(_REPLIES)
def test_whatever_a_node_says_is_a_map_or_none(said: Any) -> None:
    """What is taken for a map has slots that there are, and places to connect to."""
    try:
        ranges = read_slots(said, "asked")
    except ValueError:
        return
    for first, last, place, replicas in ranges:
        assert 0 <= first <= last < SLOTS
        assert all(one.host and 0 < one.port <= 0xFFFF for one in (place, *replicas))


def test_a_map_names_its_nodes_as_they_announce_themselves() -> None:
    """By address, by name, not at all (then where it was asked), and "?" for a replica that nobody can reach."""
    said = [
        [0, 1, [b"10.0.0.1", 1, b"id", []], [b"?", 2, b"id"], [b"r.example", 3, b"id"]],
        [2, 2, [None, 4]],
        [3, 3, [b"", 5]],
        [4, 4, [b"fd00::1", 6]],
    ]
    assert read_slots(said, "seed.example") == [
        (0, 1, Place("10.0.0.1", 1), [Place("r.example", 3)]),
        (2, 2, Place("seed.example", 4), []),
        (3, 3, Place("seed.example", 5), []),
        (4, 4, Place("fd00::1", 6), []),
    ]
    for wrong in (
        [[0, 1, [b"?", 1]]],
        [[0, 1]],
        [[1, 0, [b"h", 1]]],
        [[0, SLOTS, [b"h", 1]]],
        [[0, 1, [b"h", 0]]],
        None,
    ):
        with pytest.raises(ValueError, match=r"."):
            read_slots(wrong, "seed.example")


@given(st.text())
def test_whatever_a_redirect_says_is_a_place_or_none(text: str) -> None:
    """A word more, another slot, a port that is none: it leads nowhere."""
    place = read_redirect(Fault("MOVED", f"MOVED {text}"), 7, "asked")
    assert place is None or (place.host and 0 < place.port <= 0xFFFF)


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("7 10.0.0.1:6379", Place("10.0.0.1", 6379)),
        ("7 :6379", Place("asked", 6379)),
        ("7 fd00::1:6379", Place("fd00::1", 6379)),
        ("7 node.example:6379", Place("node.example", 6379)),
        ("8 10.0.0.1:6379", None),
        ("7 ?:6379", None),
        ("7 10.0.0.1:0", None),
        ("7 10.0.0.1", None),
        ("7", None),
    ],
)
def test_a_redirect_leads_where_it_says(said: str, place: Place | None) -> None:
    assert read_redirect(Fault("MOVED", f"MOVED {said}"), 7, "asked") == place


def test_a_url_names_the_nodes_and_how_one_is_let_in() -> None:
    """User, password and options hold for all; a port may be left out."""
    assert Seeds.read("rediss+cluster://u:p%2C@a:1,[::1]:2,c/0?ssl_ca_certs=/x", 6379) == (
        (Place("a", 1), Place("::1", 2), Place("c", 6379)),
        "0",
        "rediss://u:p%2C@a:1/0?ssl_ca_certs=/x",
    )


@pytest.mark.parametrize("end", ["#0", "/0#", "?ssl_check_hostname", "?protocol=3&db"])
def test_what_ends_a_url_and_is_no_option_is_refused(end: str) -> None:
    """Or it would be left out in silence, and what it was to say with it."""
    with pytest.raises(ValueError, match="ends in what is no option"):
        Seeds.read(f"redis+cluster://a:1{end}", 6379)


# A node that does not have it…


async def test_a_thousand_that_are_moved_are_done_once_and_read_one_map() -> None:
    """All go on to the node that has them, in their order, and the next ones go there by themselves."""
    async with told_nodes(2) as (old, new), a_store(url_of(old, new), timeout_s=10.0) as store:
        old.answer = lambda words: to("MOVED", FIRST, new) if words[1] == FIRST.encode() else OK
        new.answer = lambda words: resp(words[-1])
        await mapped(store)
        old.slots = new.slots = [(0, SLOTS - 1, new.host, new.port)]
        maps = old.maps + new.maps
        del new.asked[:]
        replies = [store.execute(FIRST, "ECHO", FIRST, number, read=int) for number in range(1000)]
        assert await asyncio.gather(*replies) == list(range(1000))
        assert [int(words[-1]) for words in new.asked] == list(range(1000))
        asked = len(old.asked)
        assert await store.execute(FIRST, "ECHO", FIRST, 1) == b"1"
        assert len(old.asked) == asked
        await until(lambda: old.maps + new.maps > maps)
        assert await store.why_not() == ""
        assert old.maps + new.maps == maps + 1


async def test_a_node_that_does_not_know_its_own_host_is_where_it_was_asked() -> None:
    """A redirect without a host means the host that was asked; a proxy of ports has that."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes)) as store:
        await mapped(store)
        nodes[0].answer = lambda _: error(f"MOVED {slot_of(FIRST)} :{nodes[1].port}")
        assert await store.execute(FIRST, "ECHO", FIRST) == b"OK"
        assert nodes[1].asked[-1] == [b"ECHO", FIRST.encode()]


async def test_ask_goes_out_beside_its_command_and_changes_no_map() -> None:
    """ASKING and the command travel together, and each gets its own reply; the next command asks the source first."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes)) as store:
        source, target = nodes
        await mapped(store)
        source.answer = lambda words: to("ASK", FIRST, target)
        target.answer = lambda words: OK if words[0] == b"ASKING" else resp(words[-1])
        del source.asked[:], target.asked[:]
        keys = [FIRST, SECOND] * 50
        replies = [store.execute(key, "ECHO", key, number, read=int) for number, key in enumerate(keys)]
        assert await asyncio.gather(*replies) == list(range(100))
        assert len(target.asked) == 150
        for before, words in itertools.pairwise([[b""], *target.asked]):
            assert (before == [b"ASKING"]) == (words[:2] == [b"ECHO", FIRST.encode()])
        assert len(source.asked) == 50
        await store.execute(FIRST, "ECHO", FIRST, 1)
        assert len(source.asked) == 51


async def test_a_script_is_made_known_to_each_node_and_asked_for_both_times() -> None:
    """NOSCRIPT of a node to which ASK led: EVAL asks again; nothing runs twice."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes)) as store:
        source, target = nodes
        await mapped(store)
        del target.asked[:]
        source.answer = lambda _: to("ASK", FIRST, target)
        target.answer = lambda words: error("NOSCRIPT No matching script.") if words[0] == b"EVALSHA" else OK
        assert await store.run(Script("return 1", "0" * 40), [FIRST], []) == b"OK"
        assert [words[0] for words in target.asked] == [b"ASKING", b"EVALSHA", b"ASKING", b"EVAL"]


async def test_try_again_is_tried_again_within_a_commands_time() -> None:
    """A few times it says so, and is asked again; for ever, and the command is refused when its time is over. Each time
    it is asked later than the time before."""
    again = error("TRYAGAIN Multiple keys request during rehashing of slot")
    left = itertools.chain([again] * 3, itertools.repeat(OK))
    async with told_nodes(1) as (node,):
        node.answer = lambda words: next(left) if words[0] == b"ECHO" else OK
        async with a_store(url_of(node)) as store:
            assert await store.execute(FIRST, "ECHO", FIRST) == b"OK"
            assert len(node.asked) == 4
        node.answer = lambda _: again
        async with a_store(url_of(node), timeout_s=0.3) as store:
            del node.asked[:]
            with awake() as took:
                with pytest.raises(StoreAwayError, match="TRYAGAIN"):
                    await store.execute(FIRST, "ECHO", FIRST)
                assert took() < 3.0
            assert 2 <= len(node.asked) <= 6
            del node.asked[:]
            with pytest.raises(StoreAwayError, match="TRYAGAIN"):
                await store.blocking(FIRST, "BLPOP", FIRST, SECOND, 5, wait_s=5)
            assert 2 <= len(node.asked) <= 6


@pytest.mark.parametrize("said", ["CLUSTERDOWN Hash slot not served", "MASTERDOWN Link is down", "LOADING It loads"])
async def test_a_node_that_cannot_serve_is_asked_once(said: str) -> None:
    """It is away, in its own word; nobody else can do the command either."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes)) as store:
        await mapped(store)
        nodes[0].answer = lambda _: error(said)
        with pytest.raises(StoreAwayError) as away:
            await store.execute(FIRST, "SET", FIRST, "x")
        assert away.value.reason == said.partition(" ")[0]
        assert [node.asked.count([b"SET", FIRST.encode(), b"x"]) for node in nodes] == [1, 0]


async def test_redirects_end() -> None:
    """Two nodes that send a command to each other for ever: so many times, and it is refused; others are served."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes)) as store:
        for node, other in (nodes, reversed(nodes)):
            node.answer = partial(lambda other, words: to("MOVED", FIRST, other) if FIRST in str(words) else OK, other)
        await mapped(store)
        with pytest.raises(StoreAwayError, match="MOVED"):
            await store.execute(FIRST, "ECHO", FIRST)
        assert len([words for node in nodes for words in node.asked if words[0] == b"ECHO"]) == 17
        with pytest.raises(StoreAwayError, match="MOVED"):
            await store.blocking(FIRST, "BLPOP", FIRST, 0, wait_s=0)
        assert await store.execute(SECOND, "ECHO", SECOND) == b"OK"


@pytest.mark.parametrize(
    "said",
    [
        "MOVED",
        "MOVED 1 127.0.0.1:1",
        f"MOVED {slot_of(FIRST)} ?:1",
        f"ASK {slot_of(FIRST)} h:99999",
        "ASK",
        "MOVED \xff",
    ],
)
async def test_a_redirect_that_leads_nowhere_is_a_node_that_cannot_serve(said: str) -> None:
    """Nothing is asked again."""
    async with told_nodes(1) as (node,), a_store(url_of(node)) as store:
        node.answer = lambda _: error(said)
        with pytest.raises(StoreAwayError):
            await store.execute(FIRST, "SET", FIRST, "x")
        assert node.asked == [[b"SET", FIRST.encode(), b"x"]]


async def test_a_redirect_to_who_is_not_there_is_away() -> None:
    """Asked so many times at most, and no longer than a command's time."""
    gone = ToldNode()
    [gone.port] = free_ports(1)
    async with told_nodes(1) as (node,), a_store(url_of(node), timeout_s=0.5) as store:
        node.answer = lambda _: to("MOVED", FIRST, gone)
        with awake() as took:
            with pytest.raises(StoreAwayError):
                await store.execute(FIRST, "SET", FIRST, "x")
            assert took() < 3.0
        assert len(node.asked) <= 17


async def test_all_its_redirects_share_a_commands_time() -> None:
    """Each node takes less than the limit, and both together take more; who answers late is not given up for it."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes), timeout_s=1.6) as store:
        await mapped(store)

        given_up = asyncio.Event()

        async def moved(_: list[bytes]) -> bytes:
            await asyncio.sleep(1.0)
            return to("MOVED", FIRST, nodes[1])

        async def done(_: list[bytes]) -> bytes:
            await given_up.wait()
            return OK

        nodes[0].answer, nodes[1].answer = moved, done
        with awake() as took:
            late = store.execute(FIRST, "ECHO", FIRST)
            await until(lambda: [b"ECHO", FIRST.encode()] in nodes[1].asked)
            after = store.execute(SECOND, "ECHO", SECOND)
            with pytest.raises(StoreAwayError, match=r"no answer within 1\.6 s"):
                await late
            assert took() < 1.9
        given_up.set()
        nodes[1].answer = ToldNode().answer
        assert await after == b"OK"


async def test_what_waits_in_the_store_goes_on_as_well() -> None:
    """MOVED and ASK of a command that waits; while it waited already, it is away, and its caller asks anew."""
    async with told_nodes(2) as nodes:
        nodes[0].answer = lambda _: to("ASK", FIRST, nodes[1])
        async with a_store(url_of(nodes[0])) as store:
            assert await store.blocking(FIRST, "BLPOP", FIRST, 5, wait_s=5) == b"OK"
            assert [words[0] for words in nodes[1].asked] == [b"ASKING", b"BLPOP"]

        maps = []

        async def late(_: list[bytes]) -> bytes:
            await asyncio.sleep(0.2)
            maps.append(nodes[0].maps + nodes[1].maps)
            nodes[0].slots = nodes[1].slots = [(0, SLOTS - 1, nodes[1].host, nodes[1].port)]
            return to("MOVED", FIRST, nodes[1])

        nodes[0].answer = late
        async with a_store(url_of(nodes[0]), timeout_s=0.1) as store:
            with pytest.raises(StoreAwayError, match="MOVED"):
                await store.blocking(FIRST, "BLPOP", FIRST, 5, wait_s=5)
            await until(lambda: nodes[0].maps + nodes[1].maps > maps[0])
            assert await store.blocking(FIRST, "BLPOP", FIRST, 5, wait_s=5) == b"OK"


# A node that is gone…


async def test_a_command_whose_answer_was_lost_goes_nowhere_else() -> None:
    """The node may have done it: so it is refused, and the others never see it."""
    async with told_nodes(2) as nodes, a_store(url_of(*nodes)) as store:
        nodes[0].answer = lambda words: None if words[0] == b"INCR" else OK
        await mapped(store)
        with pytest.raises(StoreAwayError, match="closed by"):
            await store.execute(FIRST, "INCR", FIRST)
        await mapped(store)
        assert [node.asked.count([b"INCR", FIRST.encode()]) for node in nodes] == [1, 0]


async def test_what_no_connection_was_had_for_goes_to_who_has_it_now() -> None:
    """Its node is gone and another has its slots: the map is read again, and it is done there; nobody notices."""
    async with told_nodes(3) as nodes, a_store(url_of(*nodes)) as store:
        await mapped(store)
        await nodes[0].close()
        with pytest.raises(StoreAwayError):  # its connection was a good one until now
            await store.execute(FIRST, "GET", FIRST)
        await until(lambda: sum(node.maps for node in nodes) > 1)
        for node in nodes[1:]:
            node.slots = shares(nodes[1:])
        replies = [store.execute(FIRST, "SET", FIRST, number) for number in range(10)]
        assert await asyncio.gather(*replies) == [b"OK"] * 10
        words = [words for node in nodes[1:] for words in node.asked if words[1] == FIRST.encode()]
        assert sorted(int(word[2]) for word in words) == list(range(10))


async def test_a_seed_that_is_not_there_costs_nothing() -> None:
    """Any of those that the URL names will do."""
    [port] = free_ports(1)
    async with told_nodes(1) as (node,), a_store(f"redis+cluster://127.0.0.1:{port},{node.place}") as store:
        node.answer = lambda words: b"+PONG\r\n" if words == [b"PING"] else OK
        assert await store.execute(FIRST, "SET", FIRST, "x") == b"OK"
        assert await store.ping()


async def test_a_name_that_is_none_keeps_nobody_from_the_others() -> None:
    """A seed that no name server is even asked for, and a node that is sent to an address of no network here."""
    async with told_nodes(1) as (node,), a_store(f"redis+cluster://no..name:1,{node.place}") as store:
        node.answer = lambda words: OK if words[1] == FIRST.encode() else error(f"MOVED {slot_of(SECOND)} {NOWHERE}:1")
        for _ in range(2):
            assert await store.execute(FIRST, "SET", FIRST, "x") == b"OK"
            with pytest.raises(StoreAwayError):
                await store.execute(SECOND, "SET", SECOND, "x")


async def test_nobody_there_is_said_at_once() -> None:
    """No node of a cluster: refused, and told."""
    places = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    async with a_store(f"redis+cluster://{places}") as store:
        with pytest.raises(StoreAwayError, match="refused 127"):
            await store.execute(FIRST, "GET", FIRST)
        assert (await store.why_not()).startswith("refused 127.0.0.1:")


async def test_a_node_that_says_nothing_keeps_nobody_from_the_others() -> None:
    """A seed that takes connections, and never answers."""
    silent = ToldNode()
    silent.answers_greetings = False
    await silent.listen()
    async with told_nodes(1) as (node,), a_store(url_of(silent, node)) as store:
        for _ in range(3):
            assert await store.execute(FIRST, "SET", FIRST, "x") == b"OK"
    await silent.close()


async def test_a_map_that_is_none_is_said() -> None:
    """One without slots, and one that no cluster has."""
    async with told_nodes(1) as (node,):
        node.slots = []
        async with a_store(url_of(node)) as store:
            assert await store.why_not() == f"no slots at {node.place}"
        node.slots = [(5, 4, "h", 1)]
        async with a_store(url_of(node)) as store:
            assert await store.why_not() == "no range of slots"


async def test_a_store_that_is_no_cluster_is_said(store_url: str) -> None:
    """In its own words."""
    async with a_switch(store_url) as way, a_store(way.url.replace("redis", "redis+cluster")) as store:
        assert await store.why_not() == "This instance has cluster support disabled"


async def test_closing_ends_what_waits_at_a_node_that_has_left_and_looks_for_no_other() -> None:
    """At once, though it had time left; nothing of the store goes on then."""
    go_on = asyncio.Event()

    async def late(_: list[bytes]) -> bytes:
        await go_on.wait()
        return OK

    async with told_nodes(2) as nodes:
        store = Store(url_of(*nodes), timeout_s=DEADLINE_S)
        await mapped(store)
        nodes[0].answer = late
        waiting = store.execute(FIRST, "ECHO", FIRST)
        await until(lambda: [b"ECHO", FIRST.encode()] in nodes[0].asked)
        for node in nodes:
            node.slots = shares(nodes[1:])
        looking = store._nodes.look()
        assert looking is not None
        await looking
        assert not waiting.done()
        tasks = asyncio.all_tasks()
        await store.close()
        assert waiting.done()
        with pytest.raises(StoreAwayError, match="closed by"):
            await waiting
        assert asyncio.all_tasks() <= tasks
        go_on.set()
    """How many of all."""
    async with told_nodes(1) as (node,), a_store(url_of(node)) as store:
        node.slots = [(0, 16000, node.host, node.port)]
        assert await store.why_not() == f"no node has {SLOTS - 16001} of its {SLOTS} slots"


async def test_what_was_wrong_before_there_was_a_map_is_over_with_it() -> None:
    """Nobody has slots as the sidecar begins: it is told, and so is its end once somebody has."""
    told: list[Event] = []
    async with told_nodes(1) as (node,), a_store(url_of(node), trouble=Trouble(told.append)) as store:
        shared, node.slots = node.slots, []
        node.answer = lambda _: error("CLUSTERDOWN The cluster is down")
        with pytest.raises(StoreAwayError, match="CLUSTERDOWN"):
            await store.execute(FIRST, "ECHO", FIRST)
        assert [type(one) for one in told] == [StoreAway]
        node.slots, node.answer = shared, lambda _: OK
        await mapped(store)
        assert await store.execute(FIRST, "ECHO", FIRST) == b"OK"
        assert [type(one) for one in told] == [StoreAway, StoreBack]


async def test_each_node_that_takes_no_writes_is_said_and_told_by_its_place() -> None:
    """And it is not over because another node serves."""
    told: list[Event] = []
    async with told_nodes(2) as nodes, a_store(url_of(*nodes), trouble=Trouble(told.append)) as store:
        nodes[0].answer = lambda _: error("OOM command not allowed")
        assert await store.why_not() == f"OOM at {nodes[0].place}"
        await store.execute(SECOND, "SET", SECOND, "x")
        assert [one.reason for one in told if isinstance(one, StoreAway)] == [f"OOM at {nodes[0].place}"]
        assert len(told) == 1
        nodes[0].answer = nodes[1].answer
        assert await store.why_not() == ""
        assert [type(one) for one in told] == [StoreAway, StoreBack]


async def test_nodes_may_be_names_and_addresses_of_any_kind() -> None:
    """localhost, ::1, and no host at all: the one that was asked."""
    six = ToldNode()
    await six.listen("::1")
    async with told_nodes(1) as (four,), a_store(f"redis+cluster://localhost:{four.port}") as store:
        four.slots = [(0, SLOTS // 2 - 1, None, four.port), (SLOTS // 2, SLOTS - 1, "::1", six.port)]
        assert await store.why_not() == ""
        assert await store.execute(SECOND, "SET", SECOND, "x") == b"OK"
        assert [b"SET", SECOND.encode(), b"x"] in six.asked
    await six.close()


async def test_a_cluster_behind_tls(tmp_path: Path) -> None:
    """rediss+cluster://: every node, by the name that it announces; one whose certificate has another is away."""
    ours, here, strange = Authority(tmp_path), ToldNode(), ToldNode()
    await here.listen(tls=serving(ours.issue("here", LOOPBACK)))
    await strange.listen(tls=serving(ours.issue("strange", x509.DNSName("node.example"))))
    url = f"rediss+cluster://127.0.0.1:{here.port}?ssl_ca_certs={ours.cert}"
    here.slots = [(0, SLOTS // 2 - 1, None, here.port), (SLOTS // 2, SLOTS - 1, "127.0.0.1", strange.port)]
    async with a_store(url) as store:
        assert await store.execute(FIRST, "SET", FIRST, "x") == b"OK"
        assert re.fullmatch(f"TLS with 127.0.0.1:{strange.port}: .*", await store.why_not())
        with pytest.raises(StoreAwayError, match="TLS with"):
            await store.execute(SECOND, "SET", SECOND, "x")
    await here.close()
    await strange.close()


# Real servers…


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    async with a_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.mark.asyncio(loop_scope="module")
async def test_a_real_cluster_has_our_slots(cluster: Servers) -> None:
    """CLUSTER KEYSLOT agrees, and every key is where we look for it: no command is moved."""
    async with a_store(cluster.url) as store:
        await mapped(store)
        keys = [f"{prefix}{{{number}}}x{{y}}" for number in range(50) for prefix in ("", "é", "}")]
        for key in keys:
            assert await store.execute(None, "CLUSTER", "KEYSLOT", key) == slot_of(key)
            assert await store.execute(key, "SET", key, "x", "PX", 1000) == b"OK"
    for member in cluster.primaries:
        assert b"errorstat_MOVED" not in await member.says("INFO", "errorstats")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", ["key by key", "at once"])
async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(cluster: Servers, way: str) -> None:
    """Commands and scripts on keys that are there, are made and go, while their slot goes there and back."""
    text = "return {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}"
    script = Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    tag = f"{{moving {way}}}"
    counts = {"one": 0, "two": 0}
    failed: list[BaseException] = []
    done = asyncio.Event()

    async with a_store(cluster.url, timeout_s=10.0) as store:

        async def load(number: int) -> None:
            while not done.is_set():
                key, pair = f"{tag}:{number}", [f"{tag}:a:{number}", f"{tag}:b:{number}"]
                try:
                    await store.execute(key, "INCR", key)
                    counts["one"] += 1
                    await store.run(script, pair, [])
                    counts["two"] += 1
                except StoreAwayError as error:
                    failed.append(error)
                await asyncio.sleep(0)

        loading = [asyncio.create_task(load(number)) for number in range(8)]
        for number in range(2000):
            await store.execute(tag, "SET", f"{tag}:filler:{number}", "x")
        home = await cluster.owner(tag)
        for target in (*(one for one in cluster.primaries if one is not home), home):
            await (cluster.move if way == "key by key" else cluster.migrate)(tag, target)
        done.set()
        await asyncio.gather(*loading)
        assert not failed
        for count, names in (("one", [""]), ("two", [":a"]), ("two", [":b"])):
            values = [await store.execute(tag, "GET", f"{tag}{names[0]}:{number}", read=int) for number in range(8)]
            assert sum(values) == counts[count]
        assert counts["two"] > 100


async def test_the_rights_that_are_told_are_enough(cluster: Servers, start: Start) -> None:
    """docs/store.md: a user with those alone is served, from the first connection to the message that is sent."""
    on_keys = ("+@hash", "+@string", "+@stream", "+@sortedset", "+@keyspace", "-@dangerous")
    told = ("+eval", "+evalsha", "+time", "+ping", "+role", "+wait", "+cluster|slots", "+asking")
    for member in cluster.members:
        await member.says("ACL", "SETUSER", "ours", "on", ">pw", "~sidecar:*", "~{sidecar:*", *on_keys, *told)
        await member.says("ACL", "LOG", "RESET")
    sidecar = await start(MAIN + PUMPING, url=cluster.url.replace("://", "://ours:pw@"))
    assert (await sidecar.send()).status == 202
    assert (await sidecar.register(await sidecar.vendor.code())).status == 200
    assert (await sidecar.admin("/readyz?needs=store")).status == 200
    denied = {entry[7] for member in cluster.members for entry in await member.says("ACL", "LOG")}
    assert denied <= {b"client|setinfo", b"command|info"}  # courtesies
