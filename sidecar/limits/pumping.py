"""Is this send one of many that nobody will verify? SMS pumping, judged by what was verified lately. Pure.

Who pumps asks for codes to numbers that pay, and never types one in. So every send counts as unverified until its code
is verified, and what is normal grows with what is verified. The law is `gcra`'s: whole milliseconds only, so that this
file and `pumping.lua` agree to the last digit; no clock is read, and all that is known is in a `Book`. The script
decides on what the store holds; this file says what that means, runs in `replay` and in `make bench-pumping`, and is
what a property test holds the script against.

The terms:
- counter     what is known of one country, block of numbers or address: its level, and what was verified there lately.
- verified    the verifications of the last period: this window's, and the share of the last window that is less than a
              period ago.
- threshold   how many unverified sends in a period are normal: floor + ratio x verified.
- level       a leaky bucket that is full at the threshold and loses it in a period, kept as one point in time (TAT) as
              in `gcra`: a send fills it by period / threshold, and its verification takes that very amount out again.
- entry       one unverified send of a number: what it filled, and what it may cost.
- rule        a counter that a send must find with room for one more.

A day's period, a floor of 20 and a ratio of 0.3, for a country where 100 were verified lately: the threshold is 50.
1. 50 sends that nobody verifies fill it, and the 51st is refused. A refused send counts nowhere.
2. One of the 50 is verified: there is room for another, at once.
3. None is: there is room for another after a day / 50, which is 29 minutes.

Four things let a send pass that a rule would refuse, or whoever fills a counter could lock out everybody in it:
- its number was verified in the last seven days by a send from the same network (from any, whoever fills a rule could
  find out which numbers are known here), and has no more than two sends open: it passes every rule;
- from its network (an IPv4 /16, an IPv6 /32) numbers of its country were verified in the last seven periods, and there
  is room in that network's own counter for the country: it passes the rules that many honest people share, country
  and prefix;
- such a network has no room of its own, or it is only the address from which numbers of any country were verified in
  this window or the seven before it: it passes country and prefix as far as their reserve goes, half of what is
  normal. A counter loses no more in a period by it: who is known goes before who is not;
- its number was refused in the last two hours, and it is asked for again: it passes country and prefix as far as half
  of that reserve goes. A person tries again; a script that does so, too, solves a second captcha for each number, gets
  no more in a period, and leaves the other half to who is known.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

DAY_MS: Final = 86_400_000
# How long a number that was verified is known, and how many of its sends may be open for it to pass by that.
KNOWN_MS: Final = 7 * DAY_MS
MOST_OPEN: Final = 3
# Entries of a number that are kept; those before them stay unverified.
MOST_ENTRIES: Final = 16
# How many periods a network's counters look back and take to be empty: a small country's people are few in a day.
NEAR_PERIODS: Final = 7
# Its threshold, where anything was verified: 2 + 2 x ratio x verified. Under attack it is all that a network's honest
# people have, and with less they are refused for their own slips: see bench/bench_pumping.py.
_NEAR_FLOOR: Final = 2
_NEAR_TIMES: Final = 2
# What part of a period a counter holds in reserve: for whoever is known where he asks from, and for who asks again.
RESERVE_PART: Final = 2
AGAIN_PART: Final = 4
# How long a number that was refused is remembered: longer than any client waits that heeds `Retry-After`.
AGAIN_MS: Final = 7_200_000
# What is one per address and country: as many unverified sends as verified ones, and one more.
_COUNTRY_FLOOR: Final = 1
_COUNTRY_PERMILLE: Final = 1000
# The field of an address's counters that counts all countries together.
ALL: Final = "*"

Rule = Literal[
    "country", "prefix", "thousand", "hundred", "ten", "ip_prefix", "ip", "countries_per_ip", "budget", "budget_country"
]
PassedBy = Literal["", "number", "network", "reserve", "again"]
# In the order in which the script numbers them.
RULES: Final[tuple[Rule, ...]] = (
    "country", "prefix", "thousand", "hundred", "ten", "ip_prefix", "ip", "countries_per_ip",
    "budget", "budget_country",
)  # fmt: skip
# The rules on one counter each, but for `ip`: what part of the floor is theirs, whether they count numbers and not
# messages (a person whose message is late asks again), and whether a network that is known for the country passes them.
# Fewer are normal where honest numbers seldom meet: two of ten neighbours in one day are a coincidence, five are not.
_COUNTED: Final[tuple[tuple[Rule, int, bool, bool], ...]] = (
    ("country", 1, False, True),
    ("prefix", 1, False, True),
    ("thousand", 4, True, False),
    ("hundred", 5, True, False),
    ("ten", 8, True, False),
    ("ip_prefix", 1, False, False),
)
_IP_PART: Final = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """What `[pumping]` says. `period_ms` 1 or more; `permille` is the ratio in thousandths."""

    floor: int
    period_ms: int
    permille: int
    countries_per_ip: int

    @property
    def counted(self) -> tuple[tuple[int, bool, bool], ...]:
        """Of each counter of `Sending.names`: its floor, whether it counts numbers, whether a network passes it."""
        return tuple((-(-self.floor // part), distinct, passable) for _, part, distinct, passable in _COUNTED)

    @property
    def ip_floor(self) -> int:
        """How many numbers of one address may be unverified where none is verified."""
        return -(-self.floor // _IP_PART)


@dataclass(slots=True)  # not frozen: it is made for every send
class Sending:
    """One send that is asked for. Texts but the country are hashed.

    `names`: of its counters, as `names_of` makes them; empty where only the budget looks at it, and `ip` and `network`
    are then. Money is in millionths: what it may cost, and the budgets of a day, -1 for none.
    """

    number: str
    country: str
    ip: str = ""
    network: str = ""
    names: tuple[str, ...] = ()
    price: int = 0
    daily: int = -1
    by_country: int = -1
    enforce: bool = True  # a rule that is broken refuses it; else it is sent, and told
    enforce_budget: bool = True

    @property
    def near(self) -> str:
        """Name the counter of its network and country."""
        return f"near:{self.network}:{self.country}"


def names_of(country: str, blocks: tuple[str, str, str, str], ip_prefix: str) -> tuple[str, ...]:
    """Name a send's counters. `blocks`: of ten thousand, thousand, hundred and ten neighbours of its number, hashed."""
    prefix, thousand, hundred, ten = blocks
    return (
        f"country:{country}",
        f"prefix:{prefix}",
        f"thousand:{thousand}",
        f"hundred:{hundred}",
        f"ten:{ten}",
        f"range:{ip_prefix}",
    )


def most_ms(period_ms: int, passed_by: PassedBy) -> int:
    """Say how full a counter may become by a send: beyond a period only by those for whom there is a reserve.

    As much leaks in a period however full it is, so a reserve is used at the cost of strangers, who wait for it.
    """
    if passed_by == "reserve":
        return period_ms + period_ms // RESERVE_PART
    if passed_by == "again":
        return period_ms + period_ms // AGAIN_PART
    return period_ms


@dataclass(slots=True)
class Counter:
    """A level and what was verified: in the window numbered `window`, and in the one before it."""

    tat_ms: int = 0
    window: int = 0
    verified: int = 0
    verified_before: int = 0

    def lately(self, now_ms: int, period_ms: int) -> int:
        """Count what was verified in the last period, as if the window before were spread evenly."""
        window = now_ms // period_ms
        now, before = self.verified, self.verified_before
        if self.window == window - 1:
            now, before = 0, now
        elif self.window < window:
            now, before = 0, 0
        return now + before * (period_ms - now_ms % period_ms) // period_ms

    def verify(self, now_ms: int, period_ms: int) -> None:
        """Count one more verification."""
        window = now_ms // period_ms
        if self.window == window - 1:
            self.verified, self.verified_before = 0, self.verified
        elif self.window < window:
            self.verified, self.verified_before = 0, 0
        self.window = max(self.window, window)
        self.verified += 1

    def is_known(self, now_ms: int, period_ms: int) -> bool:
        """Tell whether anything was verified there in this window or the seven before it."""
        return self.verified + self.verified_before > 0 and self.window + NEAR_PERIODS >= now_ms // period_ms

    def level_ms(self, now_ms: int, period_ms: int) -> int:
        """How long until it is empty: no longer than it holds, reserve included, whatever the clock did."""
        return min(max(self.tat_ms - now_ms, 0), most_ms(period_ms, "reserve"))

    def fill(self, amount_ms: int, now_ms: int, period_ms: int, passed_by: PassedBy) -> int:
        """Fill it, as far as it may be; gives by how much."""
        level = self.level_ms(now_ms, period_ms)
        amount_ms = min(amount_ms, max(0, most_ms(period_ms, passed_by) - level))
        if amount_ms:  # or an empty one would be full to a clock that is set back
            self.tat_ms = now_ms + level + amount_ms
        return amount_ms

    def take_out(self, amount_ms: int, now_ms: int) -> None:
        """Undo a `fill`. What has leaked meanwhile is not taken out twice."""
        self.tat_ms -= amount_ms
        if self.tat_ms <= now_ms:
            self.tat_ms = 0


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a send breaks: how many unverified are open there, and how many are normal. Of money, millionths."""

    rule: Rule
    open: int
    threshold: int


@dataclass(slots=True)
class Judged:
    """What is said of a send. `entry`: its number among those of its recipient, 0 when it was refused.

    `alarms`: the budgets that it is the first today to go over. `spent`: what the day has cost so far, in all and in
    the send's country.
    """

    now_ms: int
    entry: int
    broken: tuple[Broken, ...] = ()
    passed_by: PassedBy = ""
    spent: tuple[int, int] = (0, 0)
    alarms: tuple[Rule, ...] = ()

    @property
    def rules(self) -> tuple[Broken, ...]:
        """The broken rules that refuse it, or would: not those that it passes all the same."""
        return tuple(one for one in self.broken if not self.passed_by or one.rule.startswith("budget"))


@dataclass(slots=True)
class Entry:
    """One unverified send. `suspected`: a rule was broken and not enforced, so it fills nothing."""

    at_ms: int
    day: int
    country: str
    price: int
    suspected: bool
    filled: dict[str, int]  # counter -> by how much


@dataclass(slots=True)
class Number:
    """What is known of a recipient. `verified_ms`, `refused_ms`: when it was last, 0 for never.

    `near`: of the send that was verified.
    """

    verified_ms: int = 0
    refused_ms: int = 0
    near: str = ""
    last: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)

    def living(self, now_ms: int, period_ms: int) -> dict[int, Entry]:
        """The entries that are less than a period old."""
        return {number: entry for number, entry in self.entries.items() if entry.at_ms + period_ms > now_ms}


class Book:
    """All that is known: what the store is to the script. What is old is not removed here; it counts for nothing."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counters: dict[str, Counter] = {}
        self.numbers: dict[str, Number] = {}
        self.countries: dict[str, set[str]] = {}  # of an address
        self.day = 0
        self.spent: dict[str, int] = {}
        self.alarmed: set[str] = set()

    def judge(self, sending: Sending, now_ms: int) -> Judged:
        """Judge a send, and count it unless it is refused."""
        number = self.numbers.setdefault(sending.number, Number())
        living = number.living(now_ms, self.rules.period_ms)
        open_ = sum(not entry.suspected for entry in living.values())
        broken: list[Broken] = []
        fills: list[tuple[str, int]] = []
        passed_by: PassedBy = ""
        if sending.names:
            broken, fills = self._look(sending, now_ms, is_new=not open_)
            if broken:
                passed_by = self._pass(sending, number, open_, broken, fills, now_ms)
            fills.append((sending.near, self._near_amount(sending, now_ms) if passed_by == "network" else 0))
        is_suspected = bool(broken) and not passed_by
        if is_suspected:
            number.refused_ms = now_ms
        self._turn_day(now_ms)
        over = self._over(sending)
        judged = Judged(now_ms, 0, (*broken, *over), passed_by)
        scopes: dict[Rule, str] = {"budget": "", "budget_country": sending.country}
        judged.alarms = tuple(one.rule for one in over if scopes[one.rule] not in self.alarmed)
        self.alarmed.update(scopes[rule] for rule in judged.alarms)
        if not (is_suspected and sending.enforce) and not (over and sending.enforce_budget):
            filled = {}
            for name, amount in fills:
                period_ms = self._period_ms(name)
                filled[name] = 0 if is_suspected else self._counter(name).fill(amount, now_ms, period_ms, passed_by)
            if sending.names:
                self.countries.setdefault(sending.ip, set()).add(sending.country)
            number.last += 1
            entry = Entry(now_ms, self.day, sending.country, sending.price, is_suspected, filled)
            number.entries = {**living, number.last: entry}
            if len(number.entries) > MOST_ENTRIES:
                del number.entries[min(number.entries)]
            self._spend(sending.country, sending.price)
            judged.entry = number.last
        judged.spent = self.spent.get("", 0), self.spent.get(sending.country, 0)
        return judged

    def verified(self, number: str, now_ms: int) -> tuple[int, int]:
        """Count a number's open sends as verified: how many there were, and how many of them were suspected."""
        known = self.numbers.setdefault(number, Number())
        living = known.living(now_ms, self.rules.period_ms)
        names: dict[str, None] = {}
        for entry in living.values():
            for name, amount in entry.filled.items():
                self._counter(name).take_out(amount, now_ms)
                names[name] = None
        for name in names:
            self._counter(name).verify(now_ms, self._period_ms(name))
        if living:
            known.verified_ms, known.refused_ms = now_ms, 0
            known.near = next((name for name in living[max(living)].filled if name.startswith("near:")), "")
        known.entries = {}
        return len(living), sum(entry.suspected for entry in living.values())

    def give_back(self, number: str, entry: int, now_ms: int) -> bool:
        """Undo a send that was not made after all; False when there is none such (any more)."""
        known = self.numbers.setdefault(number, Number())
        undone = known.entries.pop(entry, None)
        if undone is None:
            return False
        for name, amount in undone.filled.items():
            self._counter(name).take_out(amount, now_ms)
        self.paid(undone.day, undone.country, -undone.price, now_ms)
        return True

    def paid(self, day: int, country: str, more: int, now_ms: int) -> None:
        """Correct what a send of that day has cost."""
        self._turn_day(now_ms)
        if day == self.day:
            self._spend(country, more)

    def _counter(self, name: str) -> Counter:
        return self.counters.setdefault(name, Counter())

    def _period_ms(self, name: str) -> int:
        return self.rules.period_ms * (NEAR_PERIODS if name.startswith("near:") else 1)

    def _look(self, sending: Sending, now_ms: int, *, is_new: bool) -> tuple[list[Broken], list[tuple[str, int]]]:
        """Find the broken rules, and what the send would fill. `is_new`: its number has no other send open."""
        rules = self.rules
        broken: list[Broken] = []
        fills: list[tuple[str, int]] = []

        def look(rule: Rule, name: str, floor: int, permille: int) -> bool:
            counter = self._counter(name)
            threshold = floor + permille * counter.lately(now_ms, rules.period_ms) // 1000
            level, amount = counter.level_ms(now_ms, rules.period_ms), max(1, rules.period_ms // threshold)
            fills.append((name, amount))
            is_full = level + amount > rules.period_ms
            if is_full and rule != "countries_per_ip":
                broken.append(Broken(rule, -(-level * threshold // rules.period_ms), threshold))
            return is_full

        for rule, name, (floor, is_distinct, _) in zip(RULES, sending.names, rules.counted, strict=False):
            if is_new or not is_distinct:
                look(rule, name, floor, rules.permille)
        if is_new:
            look("ip", f"ip:{sending.ip}/{ALL}", rules.ip_floor, rules.permille)
            own = self._counter(f"ip:{sending.ip}/{sending.country}")
            is_open = look("countries_per_ip", f"ip:{sending.ip}/{sending.country}", _COUNTRY_FLOOR, _COUNTRY_PERMILLE)
            if not is_open and not own.lately(now_ms, rules.period_ms):
                others = self.countries.get(sending.ip, set()) - {sending.country}
                count = sum(self._is_open(sending.ip, country, now_ms) for country in others)
                # Where many share an address, some of many countries give up: one more for each number verified there.
                of_all = self._counter(f"ip:{sending.ip}/{ALL}")
                verified = max(of_all.lately(now_ms, rules.period_ms), of_all.is_known(now_ms, rules.period_ms))
                threshold = rules.countries_per_ip + verified
                if count >= threshold:
                    broken.append(Broken("countries_per_ip", count, threshold))
        return broken, fills

    def _is_open(self, ip: str, country: str, now_ms: int) -> bool:
        """Tell whether an address has left more unverified in a country than it verified there."""
        period_ms = self.rules.period_ms
        counter = self._counter(f"ip:{ip}/{country}")
        threshold = _COUNTRY_FLOOR + _COUNTRY_PERMILLE * counter.lately(now_ms, period_ms) // 1000
        return counter.level_ms(now_ms, period_ms) + max(1, period_ms // threshold) > period_ms

    def _pass(
        self,
        sending: Sending,
        number: Number,
        open_: int,
        broken: list[Broken],
        fills: list[tuple[str, int]],
        now_ms: int,
    ) -> PassedBy:
        """Tell by what a send passes broken rules."""
        is_lately = number.verified_ms > 0 and number.verified_ms + KNOWN_MS > now_ms
        if is_lately and number.near == sending.near and open_ < MOST_OPEN:
            return "number"
        passable = {rule for (rule, *_, is_passable) in _COUNTED if is_passable}
        period_ms = self._period_ms(sending.near)
        near = self._counter(sending.near)
        if not passable.issuperset(one.rule for one in broken):
            return ""
        is_known = near.lately(now_ms, period_ms) > 0
        if is_known and near.level_ms(now_ms, period_ms) + self._near_amount(sending, now_ms) <= period_ms:
            return "network"
        period_ms = self.rules.period_ms
        is_known = is_known or self._counter(f"ip:{sending.ip}/{ALL}").is_known(now_ms, period_ms)
        is_again = number.refused_ms > 0 and number.refused_ms + AGAIN_MS > now_ms and open_ < MOST_OPEN
        passed_by: PassedBy = "reserve" if is_known else "again" if is_again else ""
        most = most_ms(period_ms, passed_by)
        of_country_and_prefix = fills[:2]
        has_room = all(
            self._counter(name).level_ms(now_ms, period_ms) + amount <= most for name, amount in of_country_and_prefix
        )
        return passed_by if has_room else ""

    def _near_amount(self, sending: Sending, now_ms: int) -> int:
        period_ms = self._period_ms(sending.near)
        verified = self._counter(sending.near).lately(now_ms, period_ms)
        return max(1, period_ms // (_NEAR_FLOOR + _NEAR_TIMES * self.rules.permille * verified // 1000))

    def _turn_day(self, now_ms: int) -> None:
        day = now_ms // DAY_MS
        if day > self.day:
            self.day = day
            self.spent = {}
            self.alarmed = set()

    def _over(self, sending: Sending) -> list[Broken]:
        """Find the budgets that a send would go over. One that costs nothing goes over none."""
        over: list[Broken] = []
        for rule, spent, limit in (
            ("budget", self.spent.get("", 0), sending.daily),
            ("budget_country", self.spent.get(sending.country, 0), sending.by_country),
        ):
            if sending.price > 0 and limit >= 0 and spent + sending.price > limit:
                over.append(Broken(rule, spent, limit))  # type: ignore[arg-type]
        return over

    def _spend(self, country: str, more: int) -> None:
        for scope in ("", country):
            self.spent[scope] = self.spent.get(scope, 0) + more
