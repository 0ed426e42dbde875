"""TC3-HMAC-SHA256: the vendor's own signatures."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar import tc3

DATA = Path(__file__).parent / "data"
VECTORS: list[dict[str, Any]] = json.loads((DATA / "tencent_tc3.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
@pytest.mark.parametrize("spelling", [0, 1])
def test_tc3_signature_is_the_vendors(vector: dict[str, Any], spelling: int) -> None:
    """Both spellings of the JSON, around midnight, for another service and host."""
    given = vector["bodies"][spelling]
    key = (vector["secret_id"], vector["secret_key"])
    made = tc3.sign(vector["service"], vector["host"], vector["timestamp"], given["body"].encode(), key)
    assert made == given["authorization"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_tc3_call_is_the_vendors(vector: dict[str, Any]) -> None:
    """Fields, body and Authorization, octet for octet, of every service."""
    made = tc3.request(
        f"https://{vector['host']}",
        (vector["service"], vector["action"], vector["version"]),
        vector["params"],
        key=(vector["secret_id"], vector["secret_key"]),
        now=vector["timestamp"] + 0.9,
        region=vector["region"],
        token=vector["token"] or "",
    )
    compact = vector["bodies"][1]
    assert (made.method, made.url, made.body.decode()) == ("POST", f"https://{vector['host']}/", compact["body"])
    fields = dict(made.fields)
    assert fields.pop("Authorization") == compact["authorization"]
    assert fields == vector["headers"]
