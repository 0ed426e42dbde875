"""What does a vendor's answer mean, and what does it say, as JSON? Pure.

The law of every kind over HTTP (contract section 5, "A refusal is a refusal"):

- A 5xx leaves the outcome open, whatever word it carries: the message may have gone out before the server failed.
- The vendor's success word with its id is a success, and nothing else is.
- An answer in the vendor's error shape (a 4xx, a word that is not the success word) is a refusal, whatever its word. A
  word that the kind's table lacks is told by the HTTP status, else as "request"; another provider may try.
- Open stay, beside silence: an answer that cannot be read, one that contradicts itself, and the words of which the
  vendor's own page says so (the kind's `open_words`).

A receipt that cannot be read is refused: `of_receipts` and what follows it raise ValueError.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from sidecar import json_text
from sidecar.delivery.providers.seam import Accepted, Fault, Outcome, Rejected, Uncertain
from sidecar.outbound import HttpReply

# For words that a kind's table lacks: what HTTP itself says (RFC 9110 section 15.5).
_STATUS: Final[Mapping[int, Fault]] = {
    401: "credentials",
    402: "balance",
    403: "credentials",
    407: "unreachable",  # a proxy's word: the vendor was not asked
    408: "unreachable",  # the server did not get the whole request in time
    425: "unreachable",  # too early: not processed
    429: "throttled",
}
# Redirects that promise that nothing was done here. After a 302 or 303 the request may have been taken: many servers
# answer a form so once they are done with it (RFC 9110 section 15.4).
_MOVED: Final = frozenset({301, 307, 308})
# No wait that a vendor asks for is longer than this, in seconds: a code lives ten minutes.
_LONGEST_WAIT_S: Final = 86_400.0
# A word that may be shown in a log though no table has it: shaped like one, and with no number of a person in it.
_WORD: Final = re.compile(r"(?!.*[0-9]{7})[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}")


@dataclass(slots=True)  # not frozen: it is made for every message
class Said:
    """What the body of an answer says, as far as it could be read.

    `verdict` is "yes" for the success word, or what stands for it; "no" for any other word; "odd" for what says both,
    or the success word in another spelling; "none" for nothing usable. `word` is the vendor's own, "" for none;
    `message_id` is the one that comes with a success, "" for none, and `id_name` what the vendor calls it.
    """

    verdict: Literal["yes", "no", "odd", "none"]
    word: str = ""
    message_id: str = ""
    id_name: str = "id"


# Not JSON, not the documented shape, or more than one reading.
NOTHING: Final = Said("none")


def coded(code: str, success: str, message_id: str, id_name: str = "id") -> Said:
    """Read a code that is the success word or the word for a refusal."""
    if code == success:
        return Said("yes", code, message_id, id_name)
    return Said("none" if not code else "odd" if code.casefold() == success.casefold() else "no", code, message_id)


def outcome(
    reply: HttpReply,
    said: Said,
    faults: Mapping[str, Fault],
    open_words: Collection[str] = (),
    retry_after_s: float | None = None,
) -> Outcome:
    """Judge an answer by the law above.

    `faults` and `open_words` are the kind's tables of the vendor's words; an entry without a dot stands for its whole
    family too ("Throttling" for "Throttling.User"), and the longer entry outweighs it. `retry_after_s` is what the
    vendor says in a way of its own; Retry-After is read for every kind.
    """
    status = reply.status
    if said.verdict == "yes" and said.message_id and 200 <= status <= 299:
        return Accepted(said.message_id)
    shown = (_shown(said.word, faults, open_words) if said.verdict != "yes" else "") or f"http_{status}"
    if status >= 500 or status < 200:
        return Uncertain(shown)
    entry = _entry(said.word, faults, open_words)
    if said.verdict == "yes":  # without its id, or in an error's shape, where an id means nothing
        return Uncertain(f"no_{said.id_name}")
    # The id of a success beside a word that we do not know says two things at once.
    if said.verdict == "odd" or entry in open_words or (said.message_id and entry not in faults):
        return Uncertain(shown)
    if said.verdict == "no" or status >= 400 or status in _MOVED:
        fault = faults.get(entry) or _STATUS.get(status, "request")
        wait_s = retry_after_s if retry_after_s is not None else asked_to_wait_s(reply.fields)
        rejected = Rejected(fault, shown)
        return Rejected(fault, shown, wait_s) if rejected.is_passing else rejected
    return Uncertain(shown)


def asked_to_wait_s(fields: Mapping[str, str]) -> float | None:
    """Read Retry-After in seconds, 0 to a day; None for none, and for what cannot be read.

    RFC 9110 section 10.2.3: delay-seconds, or a date, which is read by the answer's own Date: the two clocks are one.
    """
    value = fields.get("retry-after", "").strip()
    if re.fullmatch("[0-9]+", value):
        return min(float(value), _LONGEST_WAIT_S)
    at_s, now_s = _date_s(value), _date_s(fields.get("date", ""))
    return None if at_s is None or now_s is None else min(max(at_s - now_s, 0.0), _LONGEST_WAIT_S)


def _date_s(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _entry(word: str, *tables: Collection[str]) -> str:
    """Find a word's entry in the tables: its own, else its family's, else the word itself, which has none."""
    family = word.partition(".")[0]
    known = any(word in table for table in tables)
    return word if known or not any(family in table for table in tables) else family


def _shown(word: str, *tables: Collection[str]) -> str:
    """Give a word for the log: as it is when it is known or looks like a word. Texts may quote the recipient."""
    known = any(word in table for table in tables)
    return word if not word or known or _WORD.fullmatch(word) else "unreadable_word"


# What it says…


def of_reply(body: bytes) -> dict[str, Any]:
    """Read the object in an answer; {} for anything else."""
    document = _document(body)
    return document if isinstance(document, dict) else {}


def member(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """Give an object inside an object; {} for anything else."""
    inner = answer.get(name)
    return inner if isinstance(inner, dict) else {}


def text(answer: dict[str, Any], name: str) -> str:
    """Give a text that says something; "" for anything else."""
    value = answer.get(name)
    return value if isinstance(value, str) and value.isprintable() else ""


def number(answer: dict[str, Any], name: str) -> str:
    """Give a whole number's digits; "" for anything else, true and 1.0 among it."""
    value = answer.get(name)
    return str(value) if type(value) is int and abs(value) < 10**20 else ""


def of_receipts(body: bytes) -> list[dict[str, Any]]:
    """Read a list of objects. Raises ValueError."""
    return objects(_document(body))


def objects(document: Any) -> list[dict[str, Any]]:
    """Take a value for a list of objects. Raises ValueError."""
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise ValueError("expected a list of objects")
    return document


def needed(item: dict[str, Any], *names: str) -> str:
    """Give the first of these texts that is there. Raises ValueError when none is."""
    for name in names:
        if value := text(item, name):
            return value
    raise ValueError(f"expected a text in {names[0]}")


def digits(number: str) -> str | None:
    """Give a number's digits, or None when it is none."""
    bare = number.removeprefix("+")
    return bare if bare.isascii() and bare.isdigit() else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members. Raises ValueError where a name stands twice: that has two readings."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


# `json.loads` would make one for each answer.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once)


def _document(body: bytes) -> Any:
    coding = "utf-8" if body.startswith(b'{"') else json.detect_encoding(body)
    try:
        return json_text.document(body.decode(coding, "surrogatepass"), _DECODER)
    except (ValueError, RecursionError):
        return None
