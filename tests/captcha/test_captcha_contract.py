"""What holds for every kind of captcha, whichever file it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sidecar import captcha
from sidecar.captcha.seam import Outcome, Verdict
from sidecar.config.model import Captcha
from sidecar.outbound import HttpReply

HERE = Path(__file__).parent
KINDS = captcha.kinds()
REMOTE = {name: kind for name, kind in KINDS.items() if hasattr(kind, "request")}
REPLIES = json.loads((HERE.parent / "data" / "captcha" / "captcha_replies.json").read_text("utf-8"))["vectors"]

# The least that a table of each kind holds; a secret has the word "secret" in its value.
TABLES: dict[str, dict[str, Any]] = {
    "turnstile": {"secret": "my-secret"},
    "hcaptcha": {"secret": "my-secret"},
    "recaptcha": {"secret": "my-secret"},
    "geetest": {"captcha_id": "c", "captcha_key": "my-secret"},
    "tencent": {"secret_id": "s", "secret_key": "my-secret", "app_id": 1, "app_secret_key": "my-secret"},
    "aliyun": {"access_key_id": "k", "access_key_secret": "my-secret", "scene_id": "s"},
    "yidun": {"captcha_id": "c", "secret_id": "s", "secret_key": "my-secret"},
    "altcha": {},
    "slider": {},
}


# A token of each kind whose tokens have parts.
TOKENS = {
    "geetest": '{"lot_number":"l","captcha_output":"o","pass_token":"p","gen_time":"1"}',
    "tencent": '{"ticket":"t","randstr":"r"}',
}

# Of which vendors' answers are made.
WORDS = [
    *("success", "result", "error", "error-codes", "hostname", "status", "reason", "x"),
    *("Response", "CaptchaCode", "Error", "Code", "Result", "VerifyResult"),
]


def table(name: str, **more: Any) -> Captcha:
    settings = KINDS[name].Settings(kind=name, **TABLES[name] | more)
    assert isinstance(settings, Captcha)
    return settings


def policed(vector: dict[str, Any]) -> Captcha:
    """The table of a recorded reply: with the host, action and score that its policy asks for."""
    policy = {name: value for name, value in vector["input"]["policy"].items() if value is not None}
    if "min_score" in policy:
        policy["version"] = "v3"
    return table(vector["input"]["verifier"], **policy)


def test_the_kinds_are_the_files_of_the_folder() -> None:
    files = {file.stem for file in Path(captcha.__file__ or "").parent.glob("*.py")}
    assert set(KINDS) == files - {
        "__init__",
        "seam",
        "remote",
        "answer",
        "siteverify",
        "slider_maker",
        "slider_picture",
        "slider_track",
    }
    assert {"turnstile", "hcaptcha", "recaptcha", "yidun", "geetest", "tencent", "aliyun", "altcha", "slider"} <= set(
        KINDS
    )


@pytest.mark.parametrize("vector", REPLIES, ids=[vector["id"] for vector in REPLIES])
def test_recorded_replies(vector: dict[str, Any]) -> None:
    """Each recorded reply is read as the vendor means it."""
    given = vector["input"]
    reply = HttpReply(given["http_status"], {}, given["body"].encode())
    assert KINDS[given["verifier"]].read(policed(vector), reply).outcome == vector["expect"]["kind"]


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
        ask = (TOKENS.get(name, "token"), "203.0.113.7", 1772600767.0, "0" * 32)
        assert REMOTE[name].request(table(name), *ask).url.startswith("https://")
        url = REMOTE[name].request(table(name, endpoint="http://127.0.0.1:1/x"), *ask).url
        assert url.partition("?")[0].rstrip("/") == "http://127.0.0.1:1/x"
        for key in ("endpoint", "script"):
            with pytest.raises(ValidationError, match=key):
                table(name, **{key: "ftp://127.0.0.1"})

    def test_what_a_browser_is_told_is_no_secret(self, name: str) -> None:
        """The keys that its widget needs, and those that the page cannot do without are among them."""
        kind = REMOTE[name].Settings
        assert "script" in kind.widget_keys
        assert set(kind.page_needs) <= set(kind.widget_keys) <= set(kind.model_fields)
        assert not any("secret" in key for key in kind.widget_keys)
        assert "my-secret" not in [getattr(table(name), key) for key in kind.widget_keys]

    def test_a_token_is_bounded_and_lives_for_a_while(self, name: str) -> None:
        assert 1024 <= REMOTE[name].MAX_TOKEN <= 1 << 15
        assert 120 <= REMOTE[name].LIFE_S <= 3600

    @pytest.mark.parametrize("status", [100, 201, 204, 301, 302, 400, 401, 403, 429, 500, 503])
    def test_no_other_status_than_200_passes(self, name: str, status: int) -> None:
        """Whatever the body says: a recorded pass with another status is a provider_error."""
        for good in REPLIES:
            if good["input"]["verifier"] == name and good["expect"]["kind"] == "pass":
                body = good["input"]["body"].encode()
                assert REMOTE[name].read(policed(good), HttpReply(200, {}, body)) == Verdict("pass")
                assert REMOTE[name].read(policed(good), HttpReply(status, {}, body)).outcome == "provider_error"

    @given(body=st.binary(max_size=200))
    def test_octets_are_a_verdict_but_never_a_pass(self, name: str, body: bytes) -> None:
        assert judged(REMOTE[name], name, body) != "pass"

    @given(
        answer=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(WORDS), inner | st.sampled_from(["success", "Success", "fail"]), max_size=4
                )
            ),
            max_leaves=6,
        )
    )
    def test_only_the_documented_words_pass(self, name: str, answer: Any) -> None:
        """Neither 1, "true" nor a list in place of true is a pass."""
        outcome = judged(REMOTE[name], name, json.dumps(answer).encode())
        assert outcome != "pass" or says_yes(name, answer)

    @pytest.mark.parametrize("value", [1, 1.0, "true", "True", [True], {"x": True}, None, 0, -1, 2, "1"])
    def test_nothing_like_a_yes_is_one(self, name: str, value: Any) -> None:
        """A recorded pass, whose verdict is written in any other way."""
        for good in REPLIES:
            if good["input"]["verifier"] == name and good["expect"]["kind"] == "pass":
                for changed in replaced(json.loads(good["input"]["body"]), value):
                    outcome = REMOTE[name].read(policed(good), HttpReply(200, {}, json.dumps(changed).encode())).outcome
                    assert outcome != "pass" or says_yes(name, changed), changed

    @pytest.mark.parametrize("depth", [1, 50, 300, 900, 950, 980, 990, 1000, 1500, 5000])
    def test_no_token_is_too_much(self, name: str, depth: int) -> None:
        """Of whatever depth: it has a name, or is refused."""
        for text in ('{"a":' * depth + "1" + "}" * depth, "[" * depth, '{"ticket":' + "[" * depth + "]" * depth + "}"):
            for token in (text, text[: REMOTE[name].MAX_TOKEN]):
                found = REMOTE[name].identify(table(name), token)
                assert isinstance(found, str) or found.outcome == "reject"

    def test_a_deeply_nested_answer_is_a_provider_error(self, name: str) -> None:
        assert judged(REMOTE[name], name, b"[" * 60_000) == "provider_error"


def replaced(answer: dict[str, Any], value: Any) -> Iterator[dict[str, Any]]:
    """An answer with each of its members in turn replaced."""
    for name, member in answer.items():
        yield answer | {name: value}
        if isinstance(member, dict):
            yield from (answer | {name: inner} for inner in replaced(member, value))


def says_yes(kind: str, answer: Any) -> bool:
    """What each vendor documents as a pass, written down once more."""
    if not isinstance(answer, dict):
        return False
    match kind:
        case "yidun":
            return answer.get("result") is True and answer.get("error") == 0 and type(answer.get("error")) is int
        case "geetest":
            return answer.get("result") == "success" and answer.get("status", "success") == "success"
        case "tencent":
            response = answer.get("Response")
            code = response.get("CaptchaCode") if isinstance(response, dict) else None
            return code == 1 and type(code) is int
        case "aliyun":
            result = answer.get("Result")
            return answer.get("Code") == "Success" and isinstance(result, dict) and result.get("VerifyResult") is True
        case _:
            return answer.get("success") is True


def judged(kind: ModuleType, name: str, body: bytes) -> str:
    verdict = kind.read(table(name), HttpReply(200, {}, body))
    assert isinstance(verdict, Verdict)
    assert verdict.outcome in get_args(Outcome)
    return verdict.outcome
