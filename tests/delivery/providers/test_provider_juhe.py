"""Juhe: its form, and whom it serves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sidecar.delivery.providers import juhe
from sidecar.delivery.providers.seam import Message, Rejected
from sidecar.outbound import HttpRequest
from sidecar.recipient import parse

DATA = Path(__file__).parents[2] / "data" / "delivery"
VECTORS: list[dict[str, Any]] = json.loads((DATA / "juhe_form.json").read_text(encoding="utf-8"))
MESSAGE = Message("id-1", parse("+8613900000001", "sms", "CN"), "zh", "246810", 5, "246810")


def form(body: bytes) -> list[tuple[str, str]]:
    return sorted(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_juhe_form_is_as_documented(vector: dict[str, Any]) -> None:
    """Both interfaces: a JSON object, and #name#=value encoded twice."""
    given = vector["input"]
    # A value with no place in it goes out as it stands; one that must have the code is added, and taken out again.
    table = {
        "kind": "juhe",
        "key": given["key"],
        "template": given["tpl_id"],
        "form": given["form"],
        "params": {**given["vars"], "zz": "{code}"},
    }
    made = juhe.request(juhe.Settings.model_validate(table), MESSAGE, 0.0, "n")
    assert isinstance(made, HttpRequest)
    assert (made.method, made.url) == (vector["expect"]["method"], vector["expect"]["url"])
    carried = juhe.values(given["form"], given["vars"])
    expect = sorted((name, value) for name, value in vector["expect"]["form"])
    if given["form"] == "vars":
        assert json.loads(carried) == json.loads(dict(expect)["vars"])
    else:
        assert carried == dict(expect)["tpl_value"]
    whole = juhe.values(given["form"], {**given["vars"], "zz": "246810"})
    assert form(made.body) == sorted([*(pair for pair in expect if pair[0] != given["form"]), (given["form"], whole)])


def test_juhe_key_is_not_in_the_address() -> None:
    """Addresses stand in logs."""
    table = {"kind": "juhe", "key": "s3cret", "template": "111", "endpoint": "http://127.0.0.1:1/x/"}
    made = juhe.request(juhe.Settings.model_validate(table), MESSAGE, 0.0, "n")
    assert isinstance(made, HttpRequest)
    assert made.url == "http://127.0.0.1:1/x/sms/send"
    assert form(made.body) == [
        ("key", "s3cret"),
        ("mobile", "13900000001"),
        ("tpl_id", "111"),
        ("vars", '{"code":"246810"}'),
    ]


@pytest.mark.parametrize("number", ["+85261234567", "+14155550100", "+862085551234"])
def test_juhe_serves_mobile_numbers_of_the_mainland_only(number: str) -> None:
    """Others are refused without a call, and another provider may try."""
    table = {"kind": "juhe", "key": "s3cret", "template": "111"}
    message = replace(MESSAGE, recipient=parse(number, "sms", "CN"))
    outcome = juhe.request(juhe.Settings.model_validate(table), message, 0.0, "n")
    assert outcome == Rejected("number_unsupported", "not a mobile number of the mainland")
    assert outcome.may_try_next
