"""What [[block]] and [[allow]] come to: conditions of one table together, values of one condition each."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import ranges
from sidecar.config.model import Listed
from sidecar.config.units import FROM_TOML
from sidecar.lists.rules import Added, Asker, Beginnings, Lists, Match
from sidecar.ranges import Rows

NUMBER = "+8816234567"


def networks() -> ranges.Ranges:
    rows = Rows()
    for first, number in (("203.0.113.0", 64500), ("198.51.100.0", 64501)):
        at = ranges.address(first).number
        rows.add(4, at, at + 255, number)
    return rows.ranges()


NETWORKS = {"asn.csv": networks()}


def tables(*written: dict[str, Any]) -> list[Listed]:
    return [Listed.model_validate(table, context=FROM_TOML) for table in written]


def lists(block: Sequence[dict[str, Any]] = (), allow: Sequence[dict[str, Any]] = ()) -> Lists:
    return Lists(tables(*block), tables(*allow), NETWORKS)


def asker(made: Lists, ip: str, *agents: str) -> Asker:
    return made.asker(ip, lambda: agents)


CIDR = {"cidr": ["203.0.113.0/24", "2001:db8::/32"]}
ASN = {"asn": [64500, 64499], "asn_file": "asn.csv"}
AGENT = {"agent": ["curl/", "Headless"]}
PREFIX = {"prefix": ["+8816", "+8817"]}


@pytest.mark.parametrize(
    ("table", "ip", "agent", "number", "reason"),
    [
        (CIDR, "203.0.113.9", "", None, "block cidr"),
        (CIDR, "2001:db8::9", "", NUMBER, "block cidr"),
        (CIDR, "203.0.114.9", "", NUMBER, ""),
        (ASN, "203.0.113.9", "", None, "block asn"),
        (ASN, "198.51.100.9", "", None, ""),
        (ASN, "192.0.2.1", "", None, ""),
        (AGENT, "192.0.2.1", "curl/8.5.0", None, "block agent"),
        (AGENT, "192.0.2.1", "Mozilla/5.0 headlesschrome/130", None, "block agent"),
        (AGENT, "192.0.2.1", "Mozilla/5.0", None, ""),
        (AGENT, "192.0.2.1", "", None, ""),
        (PREFIX, "192.0.2.1", "", NUMBER, "block prefix"),
        (PREFIX, "192.0.2.1", "", "+8818234567", ""),
        (PREFIX, "192.0.2.1", "", "+88", ""),
        (PREFIX, "192.0.2.1", "", None, ""),
        (CIDR | AGENT, "203.0.113.9", "curl/8", None, "block cidr agent"),
        (CIDR | AGENT, "203.0.113.9", "Mozilla", None, ""),
        (CIDR | AGENT, "192.0.2.1", "curl/8", None, ""),
        (CIDR | PREFIX, "203.0.113.9", "", NUMBER, "block cidr prefix"),
        (CIDR | PREFIX, "203.0.113.9", "", "+8613900000001", ""),
        (CIDR | PREFIX, "203.0.113.9", "", None, ""),
        (CIDR | ASN | AGENT | PREFIX, "203.0.113.9", "curl/8", NUMBER, "block cidr asn agent prefix"),
    ],
)
def test_a_table_holds_when_each_of_its_conditions_does(
    table: dict[str, Any], ip: str, agent: str, number: str | None, reason: str
) -> None:
    """And refuses by number only where another number might be served."""
    made = lists(block=[table])
    expected = Match(reason, "prefix" in table) if reason else None
    assert made.match(asker(made, ip, agent), number) == expected


def test_each_table_refuses_by_itself() -> None:
    made = lists(block=[CIDR, AGENT, PREFIX])
    for ip, agent, number in (("203.0.113.9", "", None), ("192.0.2.1", "curl/8", None), ("192.0.2.1", "", NUMBER)):
        assert made.match(asker(made, ip, agent), number)
    assert made.match(asker(made, "192.0.2.1", "Mozilla"), "+8613900000001") is None


@pytest.mark.parametrize("block", [CIDR, ASN, AGENT, PREFIX, CIDR | PREFIX])
@pytest.mark.parametrize("allow", [{"cidr": ["203.0.113.9"]}, {"agent": ["MyApp"]}, {"prefix": [NUMBER]}, ASN])
def test_an_allow_that_holds_goes_before_every_block(block: dict[str, Any], allow: dict[str, Any]) -> None:
    made = lists(block=[block], allow=[allow])
    assert made.match(asker(made, "203.0.113.9", "curl/8 MyApp"), NUMBER) is None
    strict = lists(block=[block])
    assert strict.match(asker(strict, "203.0.113.9", "curl/8 MyApp"), NUMBER) is not None


def test_whoever_an_allow_may_still_let_in_by_number_is_not_refused_before_it_is_known() -> None:
    made = lists(block=[CIDR], allow=[PREFIX | {"agent": ["MyApp"]}])
    app, other = asker(made, "203.0.113.9", "MyApp"), asker(made, "203.0.113.9", "curl")
    assert made.at_once(app) is None
    assert made.match(app, NUMBER) is None
    assert made.match(app, "+8613900000001") == made.match(app, None) == Match("block cidr", by_number=False)
    assert made.at_once(other) == Match("block cidr", by_number=False)


def test_several_user_agents_are_looked_at_as_one_and_not_at_any_length() -> None:
    made = lists(block=[AGENT])
    assert made.match(asker(made, "192.0.2.1", "Mozilla", "curl/8"), None)
    assert len(asker(made, "192.0.2.1", "x" * 100_000).agent) <= 4096


def test_fields_are_not_looked_for_where_no_table_asks() -> None:
    def never() -> Sequence[str]:
        raise AssertionError

    assert lists(block=[CIDR]).asker("192.0.2.1", never) == Asker("192.0.2.1")


def test_without_a_block_there_is_nothing_to_ask() -> None:
    """An [[allow]] alone changes nothing."""
    assert not lists(allow=[CIDR])
    assert lists(block=[CIDR])
    added = Added(beginnings=Beginnings(["+8816"]))
    assert Lists((), (), {}, lambda: added)


def test_what_was_added_refuses_by_address_beginning_and_whole_number() -> None:
    whole = "+8613900000001"
    added = Added(
        ranges.of_networks(tables({"cidr": ["203.0.113.0/24"]})[0].cidr), Beginnings(["+8816"]), frozenset({"h1"})
    )
    made = Lists(
        (), tables({"cidr": ["203.0.113.9"]}), {}, lambda: added, lambda number: ("h0", "h1") if number == whole else ()
    )
    assert (
        made.at_once(Asker("203.0.113.1")) == made.match(Asker("203.0.113.1"), None) == ("admin block address", False)
    )
    assert made.match(Asker("192.0.2.1"), NUMBER) == ("admin block number", True)
    assert made.match(Asker("192.0.2.1"), whole) == ("admin block number", True)
    assert made.match(Asker("192.0.2.1"), "+8613900000002") is None
    assert made.match(Asker("203.0.113.9"), whole) is None


_CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "cidr": st.sampled_from((["203.0.113.0/24"], ["203.0.113.9"], ["192.0.2.0/24", "198.51.100.0/24"])),
        "prefix": st.sampled_from((["+8816"], ["+86139", "+881"])),
        "agent": st.sampled_from((["curl/"], ["myapp", "x"])),
    },
).filter(bool)


@given(
    st.lists(_CONDITIONS, max_size=4),
    st.lists(_CONDITIONS, max_size=3),
    st.sampled_from(("203.0.113.9", "203.0.113.1", "192.0.2.1", "10.0.0.1")),
    st.sampled_from(("", "curl/8", "MyApp")),
    st.sampled_from((None, NUMBER, "+8613900000001", "+14155550100")),
)
def test_lists_decide_as_a_plain_reading_of_their_law_does(
    block: list[dict[str, Any]], allow: list[dict[str, Any]], ip: str, agent: str, number: str | None
) -> None:
    """However tables are joined; and what is refused at once is refused with every number."""

    def holds(table: dict[str, Any]) -> bool:
        [written] = tables(table)
        at = ranges.address(ip).number
        conditions = [
            not written.cidr or any(int(n[0]) <= at <= int(n[-1]) for n in written.cidr),
            not written.prefix or (number is not None and any(number.startswith(p) for p in written.prefix)),
            not written.agent or any(a.lower() in agent.lower() for a in written.agent),
        ]
        return all(conditions)

    made = lists(block=block, allow=allow)
    asks = asker(made, ip, agent)
    refused = made.match(asks, number) is not None
    assert refused == (any(map(holds, block)) and not any(map(holds, allow)))
    assert refused or made.at_once(asks) is None
