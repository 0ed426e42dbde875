"""What holds for every kind of captcha, whichever file it is."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar import captcha
from sidecar.captcha.seam import Outcome, Verdict
from sidecar.config.model import CONTRACT_WORDS, Captcha
from sidecar.outbound import HttpReply

HERE = Path(__file__).parent
KINDS = captcha.kinds()
REMOTE = {name: kind for name, kind in KINDS.items() if hasattr(kind, "request")}
REPLIES = json.loads((HERE.parent / "data" / "captcha" / "captcha_replies.json").read_text("utf-8"))["vectors"]

# The least that a table of each kind holds; a secret has the word "secret" in its value.
TABLES: dict[str, dict[str, str]] = {
    "turnstile": {"secret": "my-secret"},
    "yidun": {"captcha_id": "c", "secret_id": "s", "secret_key": "my-secret"},
    "altcha": {},
}


def table(name: str) -> Captcha:
    settings = KINDS[name].Settings(kind=name, **TABLES[name])
    assert isinstance(settings, Captcha)
    return settings


def test_the_kinds_are_the_files_of_the_folder() -> None:
    files = {file.stem for file in Path(captcha.__file__ or "").parent.glob("*.py")}
    assert set(KINDS) == files - {"__init__", "seam", "remote"}
    assert {"turnstile", "yidun", "altcha"} <= set(KINDS)


def test_every_kind_is_a_word_of_the_contract() -> None:
    assert set(KINDS) <= set(CONTRACT_WORDS["captcha.*.kind"])


@pytest.mark.parametrize("name", KINDS)
class TestEveryKind:
    def test_has_its_test_file(self, name: str) -> None:
        assert (HERE / f"test_captcha_{name}.py").exists()

    def test_settings_take_the_least_and_refuse_unknown_keys(self, name: str) -> None:
        assert table(name).kind == name
        with pytest.raises(ValidationError, match="no_such_key"):
            KINDS[name].Settings(kind=name, no_such_key=1, **TABLES[name])

    def test_settings_need_each_of_the_least(self, name: str) -> None:
        for key in TABLES[name]:
            for rest in ({**TABLES[name], key: ""}, {k: v for k, v in TABLES[name].items() if k != key}):
                with pytest.raises(ValidationError, match=key):
                    KINDS[name].Settings(kind=name, **rest)

    def test_settings_show_no_secret(self, name: str) -> None:
        assert "my-secret" not in f"{table(name)!r} {table(name)}"

    def test_says_where_its_facts_are_from(self, name: str) -> None:
        assert "https://" in (KINDS[name].__doc__ or "")


@pytest.mark.parametrize("name", REMOTE)
class TestEveryRemoteKind:
    def test_has_recorded_replies_of_each_sort(self, name: str) -> None:
        sorts = {vector["expect"]["kind"] for vector in REPLIES if vector["input"]["verifier"] == name}
        assert {"pass", "reject", "config", "provider_error"} <= sorts

    def test_asks_its_endpoint_over_https_by_default_and_elsewhere_when_told(self, name: str) -> None:
        ask = ("token", "203.0.113.7", 1772600767.0, "0" * 32)
        assert REMOTE[name].request(table(name), *ask).url.startswith("https://")
        other = REMOTE[name].Settings(kind=name, endpoint="http://127.0.0.1:1/x", **TABLES[name])
        assert REMOTE[name].request(other, *ask).url == "http://127.0.0.1:1/x"
        with pytest.raises(ValidationError, match="endpoint"):
            REMOTE[name].Settings(kind=name, endpoint="ftp://127.0.0.1", **TABLES[name])

    @pytest.mark.parametrize("status", [100, 201, 204, 301, 302, 400, 401, 403, 429, 500, 503])
    def test_no_other_status_than_200_passes(self, name: str, status: int) -> None:
        """Whatever the body says: a recorded pass with another status is a provider_error."""
        [good] = [v for v in REPLIES if v["input"]["verifier"] == name and v["expect"]["kind"] == "pass"]
        body = good["input"]["body"].encode()
        assert REMOTE[name].read(table(name), HttpReply(200, {}, body)) == Verdict("pass")
        assert REMOTE[name].read(table(name), HttpReply(status, {}, body)).outcome == "provider_error"

    @given(body=st.binary(max_size=200))
    def test_octets_are_a_verdict_but_never_a_pass(self, name: str, body: bytes) -> None:
        assert judged(REMOTE[name], name, body) != "pass"

    @given(
        answer=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["success", "result", "error", "error-codes", "hostname", "x"]), inner, max_size=4
                )
            ),
            max_leaves=6,
        )
    )
    def test_only_the_documented_words_pass(self, name: str, answer: Any) -> None:
        """Neither 1, "true" nor a list in place of true is a pass."""
        says_yes = isinstance(answer, dict) and (
            answer.get("success") is True or (answer.get("result") is True and answer.get("error") == 0)
        )
        outcome = judged(REMOTE[name], name, json.dumps(answer).encode())
        assert outcome != "pass" or says_yes

    def test_a_deeply_nested_answer_is_a_provider_error(self, name: str) -> None:
        assert judged(REMOTE[name], name, b"[" * 60_000) == "provider_error"


def judged(kind: ModuleType, name: str, body: bytes) -> str:
    verdict = kind.read(table(name), HttpReply(200, {}, body))
    assert isinstance(verdict, Verdict)
    assert verdict.outcome in get_args(Outcome)
    return verdict.outcome
