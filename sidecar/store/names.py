"""What is everything in the store called? Every key name, and its Redis type, in this one place. Pure.

A cluster puts a key on the shard that the text between its first braces hashes to, and a script may touch keys of one
shard only. So keys that one script uses carry one tag, decided here:

- All buckets carry one tag. A request's buckets (its address, its number, the total) have nothing in common, and are
  still decided all or none in one script. The price: in a cluster one shard holds all limits, and ends where a core of
  it does (docs/decisions/0022-what-does-one-slot-carry.md).
- What is known of sends, to tell those that nobody will verify, carries one tag of its own: a send meets counters of
  its country, its number and its address, which have as little in common, and are decided in one script, too.
- What is known of one recipient (`current`, `verification`, `idempotency`) carries the recipient's route:
  the first two characters of its hash. A verification's id is found without its recipient, so it begins with that
  route, and so does the hash of an idempotency key. Two characters spread recipients over a few hundred tags, and tell
  whoever reads an id next to nothing of the number.
- The outbox, what comes back to it and what is written with a message carry one tag. What is remembered for receipts
  carries another: the message, what vendors call it, and the receipts that came before it was known. The breakers are
  one hash; `blocks`, `jwks`, `probe` and `instances` are used alone, so they need no tag.

Hashes are keyed hashes made by the caller: no address, number or token ever stands in a key.
"""

from dataclasses import dataclass
from typing import Final

ROUTE_CHARS: Final = 2


def route(recipient_hash: str) -> str:
    """What ids of a recipient's verifications, and hashes of its idempotency keys, must begin with."""
    return recipient_hash[:ROUTE_CHARS]


@dataclass(frozen=True, slots=True)
class Names:
    """The names under one prefix; deployments that share a store have different prefixes."""

    prefix: str

    def __post_init__(self) -> None:
        if not self.prefix or set(self.prefix) & set("{}"):
            raise ValueError(f"{self.prefix!r} is no prefix; expected text without braces, such as 'sidecar'")

    def bucket(self, limit: str, hashed: str) -> str:
        """Name a leaky bucket. string: its TAT in microseconds since the epoch."""
        return f"{{{self.prefix}:limits}}:bucket:{limit}:{hashed}"

    def load(self, name: str, hashed: str) -> str:
        """Name a count that fades. string: the count, and when it was that, in microseconds since the epoch."""
        return f"{{{self.prefix}:limits}}:load:{name}:{hashed}"

    def sends(self, name: str) -> str:
        """Name a counter, an address, a number or the money of `limits/pumping.lua`, which says their types."""
        return f"{{{self.prefix}:sends}}:{name}"

    def verification(self, verification_id: str) -> str:
        """Name a verification's record. hash. The id begins with its recipient's route."""
        return f"{self._recipient(verification_id)}:verification:{verification_id}"

    def current(self, recipient_hash: str) -> str:
        """Name what points to a recipient's living verification. string: its id."""
        return f"{self._recipient(recipient_hash)}:current:{recipient_hash}"

    def idempotency(self, hashed: str) -> str:
        """Name the claim of an Idempotency-Key. string. The hash begins with its recipient's route."""
        return f"{self._recipient(hashed)}:idempotency:{hashed}"

    def answered(self, idempotency: str) -> str:
        """Name what the request with that claim was answered, written with its message. string."""
        return f"{self.outbox()}:answered:{idempotency.rpartition(':')[2]}"

    def outbox(self) -> str:
        """Name the messages to send. stream."""
        return f"{{{self.prefix}:outbox}}"

    def seen(self) -> str:
        """Name what was seen of providers. hash: provider and segment -> faded counts."""
        return f"{{{self.prefix}:seen}}"

    def later(self) -> str:
        """Name the messages that come back: to be tried again, or to be confirmed. zset: message id by milliseconds."""
        return f"{self.outbox()}:later"

    def waiting(self) -> str:
        """Name what those messages are. hash: message id -> fields and values."""
        return f"{self.outbox()}:waiting"

    def dead(self) -> str:
        """Name the messages that nobody could send, or that nobody confirmed. stream."""
        return f"{self.outbox()}:dead"

    def posted(self, hashed: str) -> str:
        """Name a message that providers have, or may have, by our id. hash."""
        return f"{{{self.prefix}:receipts}}:posted:{hashed}"

    def vendor_id(self, hashed: str) -> str:
        """Name what a vendor calls one of our messages. string: our id."""
        return f"{{{self.prefix}:receipts}}:vendor_id:{hashed}"

    def early(self) -> str:
        """Name the receipts of messages that are not known yet. hash: hashed id -> receipts."""
        return f"{{{self.prefix}:receipts}}:early"

    def early_times(self) -> str:
        """Name when those came. zset: hashed id by milliseconds."""
        return f"{self.early()}:times"

    def refunded(self, message_id: str) -> str:
        """Name the mark that a message's tickets were given back. string."""
        return f"{{{self.prefix}:limits}}:refunded:{message_id}"

    def breakers(self) -> str:
        """Name the circuit breakers. hash: provider and segment -> the breaker's text."""
        return f"{{{self.prefix}:breakers}}"

    def blocks(self) -> str:
        """Name what administrators have blocked. hash: what -> until when, and how it is shown."""
        return f"{self.prefix}:blocks"

    def jwks(self) -> str:
        """Name the public keys of all instances. hash: key id -> the key and until when, sealed."""
        return f"{self.prefix}:jwks"

    def probe(self) -> str:
        """Name what is written to see whether the store takes writes. string."""
        return f"{self.prefix}:probe"

    def instances(self) -> str:
        """Name the processes last seen. zset: instance by time."""
        return f"{self.prefix}:instances"

    def _recipient(self, routed: str) -> str:
        return f"{{{self.prefix}:{routed[:ROUTE_CHARS]}}}"
