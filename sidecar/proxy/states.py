"""What may happen next to an exchange, and to a connection to upstream? Two literal tables. Pure.

The law: everything that decides the order of events is here, as state -> event -> next state. An event that a state
does not list cannot happen in it: looking it up raises KeyError, which is a mistake in the program and not the client's
or upstream's. What is left to the connections is flow control (whose buffer is full) and what the octets say.
"""

from typing import Final, Literal

# One request and its answer.
ExchangeState = Literal[
    "waiting",  # for a connection to upstream
    "carried",  # by a connection; upstream has said nothing yet
    "begun",  # upstream has said something, but not the final head
    "held",  # the final head has come, and is decided about before the client gets it
    "answering",  # the client gets the final head, and the content behind it
    "answered",  # the answer is whole
    "refused",  # the client got nothing of a final answer, and nothing more will come
    "cut",  # upstream broke the answer off
    "left",  # the client gave it up
]
ExchangeEvent = Literal["carry", "repeat", "begin", "hold", "answer", "end", "refuse", "cut", "leave"]

EXCHANGE: Final[dict[ExchangeState, dict[ExchangeEvent, ExchangeState]]] = {
    "waiting": {"carry": "carried", "refuse": "refused", "leave": "left"},
    # Only here may the request be sent again: RFC 9112 section 9.3.1.
    "carried": {
        "repeat": "waiting",
        "begin": "begun",
        "hold": "held",
        "answer": "answering",
        "refuse": "refused",
        "leave": "left",
    },
    "begun": {"begin": "begun", "hold": "held", "answer": "answering", "refuse": "refused", "leave": "left"},
    "held": {"answer": "answering", "refuse": "refused", "leave": "left"},
    "answering": {"end": "answered", "cut": "cut", "leave": "left"},
    # Whoever decided about the answer leaves the exchange, however it ended.
    "answered": {"leave": "answered"},
    "refused": {"leave": "refused"},
    "cut": {"leave": "cut"},
    # No connection could be made, or a tunnel has ended: nobody is there to be told.
    "left": {"leave": "left", "refuse": "left", "end": "left"},
}

# One connection to upstream.
ConnectionState = Literal[
    "opening",
    "idle",  # open, in the pool or bound to a client's connection
    "active",  # with one exchange
    "switched",  # a tunnel, after upstream's 101
    "closed",
]
ConnectionEvent = Literal["open", "carry", "end", "switch", "close"]

CONNECTION: Final[dict[ConnectionState, dict[ConnectionEvent, ConnectionState]]] = {
    "opening": {"open": "idle"},
    "idle": {"carry": "active", "close": "closed"},
    "active": {"end": "idle", "switch": "switched", "close": "closed"},
    "switched": {"close": "closed"},
    # Closed by us, and then lost by its transport; or both ends of it were.
    "closed": {"close": "closed"},
}
