"""docs/store.md: every key that the sidecar makes has a row, and every row is one that it makes."""

import inspect
import re
from pathlib import Path

from sidecar.store.names import Names

DOCUMENT = Path(__file__).parents[2] / "docs" / "store.md"
# What stands for what a caller hands in.
WORDS = {
    "limit": "LIMIT", "hashed": "HASH", "name": "NAME", "verification_id": "ROID", "recipient_hash": "ROHASH",
    "message_id": "MESSAGE", "idempotency": "x:HASH",
}  # fmt: skip


def made() -> dict[str, str]:
    """Each kind of key by its method: the name, with words for what is handed in, and the Redis types it tells."""
    found: dict[str, str] = {}
    names = Names("sidecar")
    for name in [name for name, value in vars(Names).items() if inspect.isfunction(value) and name[0] != "_"]:
        method = getattr(names, name)
        words = [WORDS[parameter] for parameter in inspect.signature(method).parameters]
        found[name] = method(*(["ROHASH"] if name == "idempotency" else words)).replace(":ROHASH", ":HASH")
    return {name: key.replace(":ROID", ":ID") for name, key in found.items()}


def test_every_key_has_its_row() -> None:
    """And no row is left of a key that is gone; each says its type, its life and its size."""
    row = r"^\| `([^`]+)` \| ([^|]+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$"
    rows = re.findall(row, DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert {row[0] for row in rows} == set(made().values())
    for key, kind, life, octets in rows:
        assert set(re.findall(r"\w+", kind)) <= {"string", "hash", "stream", "zset", "or"}, key
        assert life.strip(), key
        assert re.search(r"[0-9]", octets), key
