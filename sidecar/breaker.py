"""Is this vendor worth asking now? A circuit breaker, as a table of moves. Pure.

There is one per provider and segment, and one per captcha. Its law: everything that moves a breaker is here, and
`delivery/breaker.lua` does the same in the store, where all workers share those of the providers; a property test holds
the two together. It never reads a clock: times are milliseconds.
The store's may be set back: a breaker that is to wait for longer than any may has waited long enough.

- segment      the part of the world that breaks alone: a country, or a country's operator ("CN/china-mobile").
- generation   counts the moves. An attempt carries the one it was started under; a result of an older one says
               nothing about now, and counts for nothing.
- closed       asked as usual. Opens after `failures` in a row, or when half of the last 20 failed.
- open         not asked until `until_ms`. Only when every other provider is open too may a message try it all the same.
- half_open    one probe is under way, and is given until `until_ms` to come back; then another may be sent.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]
Event = Literal["tripped", "probed", "fine", "failed"]

# The states as metrics tell them.
STATES: Final = MappingProxyType({"closed": 0, "half_open": 1, "open": 2})

# What is looked back on, and how many failures in it are too many.
WINDOW: Final = 20
TOO_MANY: Final = 10
# No breaker is open for longer, and no probe under way, where nobody says how long they are.
LONGEST_MS: Final = 3_600_000

# (state, event) -> state. What is not here moves nothing; what is here begins a new generation.
NEXT: Final = MappingProxyType(
    {
        ("closed", "tripped"): "open",
        ("open", "probed"): "half_open",
        ("half_open", "probed"): "half_open",  # the last probe never came back
        ("open", "fine"): "closed",  # one that was tried for want of any other
        ("half_open", "fine"): "closed",
        ("half_open", "failed"): "open",
    }
)


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker. `run`: failures in a row; `window`: the last results, "1" fine and "0" failed, newest last."""

    state: State = "closed"
    generation: int = 0
    run: int = 0
    window: str = ""
    until_ms: int = 0

    @property
    def text(self) -> str:
        """As the store has it."""
        return f"{self.state} {self.generation} {self.run} {self.window or '-'} {self.until_ms}"

    @property
    def is_spotless(self) -> bool:
        """True when it is closed, and knows of no failure: one more fine result need not be told to it."""
        return self.state == "closed" and not self.run and "0" not in self.window

    def may_be_probed(self, now_ms: int, longest_ms: int = LONGEST_MS) -> bool:
        """True when one attempt may find out whether the provider is back.

        `longest_ms`: what is to wait for longer than that was told to by a clock that has been set back.
        """
        return self.state != "closed" and not now_ms < self.until_ms <= now_ms + longest_ms


def of_text(text: str) -> Breaker:
    """Read what `text` wrote. Raises ValueError."""
    state, generation, run, window, until_ms = text.split(" ")
    if state not in {"closed", "open", "half_open"}:
        raise ValueError("no state of a breaker")
    return Breaker(state, int(generation), int(run), window.replace("-", ""), int(until_ms))  # type: ignore[arg-type]


def record(breaker: Breaker, generation: int, *, fine: bool, failures: int, open_for_ms: int, now_ms: int) -> Breaker:
    """Count one result of an attempt that was started under `generation`."""
    if generation != breaker.generation:
        return breaker
    if breaker.state != "closed":
        return _moved(breaker, "fine" if fine else "failed", now_ms + open_for_ms)
    run = 0 if fine else breaker.run + 1
    window = (breaker.window + ("1" if fine else "0"))[-WINDOW:]
    if run >= failures or (len(window) == WINDOW and window.count("0") >= TOO_MANY):
        return _moved(breaker, "tripped", now_ms + open_for_ms)
    return Breaker("closed", generation, run, window)


def probe(breaker: Breaker, lease_ms: int, now_ms: int, longest_ms: int = LONGEST_MS) -> Breaker | None:
    """Claim the one probe: the half-open breaker whose generation it carries, or None when it is not to be had."""
    if not breaker.may_be_probed(now_ms, longest_ms):
        return None
    return _moved(breaker, "probed", now_ms + lease_ms)


def _moved(breaker: Breaker, event: Event, until_ms: int) -> Breaker:
    state = NEXT.get((breaker.state, event))
    if state is None:
        return breaker
    # What was counted belongs to the state that is left.
    return Breaker(state, breaker.generation + 1, until_ms=0 if state == "closed" else until_ms)  # type: ignore[arg-type]
