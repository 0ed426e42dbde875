"""ACS3-HMAC-SHA256: the vendor's own signatures."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sidecar import acs3

DATA = Path(__file__).parent / "data"
VECTORS: list[dict[str, Any]] = json.loads((DATA / "aliyun_acs3.json").read_text(encoding="utf-8"))
for each in VECTORS:  # numbers travel as text
    each["params"] = {name: str(value) for name, value in each["params"].items()}


def authorization(fields: tuple[tuple[str, str], ...]) -> str:
    return dict(fields)["Authorization"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_acs3_call_is_signed_as_the_vendor_signs_it(vector: dict[str, Any]) -> None:
    """Fields, query, form and Authorization, byte for byte."""
    made = acs3.request(
        f"https://{vector['host']}",
        (vector["action"], vector["version"]),
        vector["params"],
        key=(vector["access_key_id"], vector["access_key_secret"]),
        now=datetime.fromisoformat(vector["timestamp"]).timestamp() + 0.9,
        nonce=vector["nonce"],
        security_token=vector["security_token"] or "",
        in_form=vector["params_in"] != "query",
    )
    url, _, query = made.url.partition("?")
    assert (made.method, url, made.body.decode()) == ("POST", f"https://{vector['host']}/", vector["body"])
    assert query == vector["documented"]["canonical_query"]
    assert dict(parse_qsl(query or vector["body"], keep_blank_values=True)) == vector["params"]
    fields = dict(made.fields)
    assert fields.pop("Authorization") == vector["documented"]["authorization"]
    assert fields == vector["documented"]["headers"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
@pytest.mark.parametrize("which", ["documented", "all_fields"])
def test_acs3_signs_whatever_fields_and_body_it_is_given(vector: dict[str, Any], which: str) -> None:
    """All that the SDK itself signs, and a form body."""
    body = vector["body"].encode()
    made = acs3.signed(
        vector["method"],
        f"https://{vector['host']}",
        {} if body else vector["params"],
        vector[which]["headers"],
        body,
        (vector["access_key_id"], vector["access_key_secret"]),
    )
    assert authorization(made.fields) == vector[which]["authorization"]
