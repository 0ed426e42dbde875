"""What may happen next to an exchange, and to the connection at each of its ends? Three literal tables. Pure.

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
UpstreamState = Literal[
    "opening",
    "idle",  # open, in the pool or bound to a client's connection
    "active",  # with one exchange
    "switched",  # a tunnel, after upstream's 101
    "closed",
]
UpstreamEvent = Literal["open", "carry", "end", "switch", "close"]

UPSTREAM: Final[dict[UpstreamState, dict[UpstreamEvent, UpstreamState]]] = {
    "opening": {"open": "idle"},
    "idle": {"carry": "active", "close": "closed"},
    "active": {"end": "idle", "switch": "switched", "close": "closed"},
    "switched": {"close": "closed"},
    # Closed by us, and then lost by its transport; or both ends of it were.
    "closed": {"close": "closed"},
}

# One connection of a client.
ClientState = Literal[
    "idle",  # no request is served; the beginning of a head may have come
    "relaying",  # an exchange carries the request, and its content as it comes
    "collecting",  # the content of a request that is to be decided about
    "deciding",  # about a request
    "carrying",  # the request, as it was decided
    "discarding",  # the rest of a request that is answered already
    "closing",  # no more is read, and what is answered has yet to leave
    "lost",
]
ClientEvent = Literal["relay", "collect", "decide", "carry", "finish", "discard", "close", "lose"]

CLIENT: Final[dict[ClientState, dict[ClientEvent, ClientState]]] = {
    "idle": {"relay": "relaying", "collect": "collecting", "decide": "deciding", "close": "closing", "lose": "lost"},
    # Decided about is a refusal, when upstream gives no answer.
    "relaying": {
        "decide": "deciding",
        "finish": "idle",
        "discard": "discarding",
        "close": "closing",
        "lose": "lost",
    },
    "collecting": {"decide": "deciding", "lose": "lost"},
    "deciding": {"carry": "carrying", "finish": "idle", "discard": "discarding", "close": "closing", "lose": "lost"},
    "carrying": {"decide": "deciding", "lose": "lost"},
    "discarding": {"discard": "discarding", "finish": "idle", "close": "closing", "lose": "lost"},
    "closing": {"close": "closing", "lose": "lost"},
    # A decision that changes something is carried out though its client has gone.
    "lost": {"carry": "lost", "decide": "lost"},
}
