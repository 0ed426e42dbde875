"""What a configuration file becomes: a Config, or all of its mistakes."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from config.deployment import LEAK, LONG_SECRET, Read, Told

from sidecar.config.load import ConfigError, Kinds, load
from sidecar.config.units import Rate
from sidecar.kinds import kinds

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "config.example.toml"
GOOD = sorted((HERE / "good").glob("*.toml"))
WARNED = sorted((HERE / "warned").glob("*.toml"))
BAD = sorted((HERE / "bad").glob("*.toml"))


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_every_good_file_loads(file: Path, env: Mapping[str, str]) -> None:
    config = load(file, env, kinds())
    routes = tomllib.loads(file.read_text()).get("routes", [])
    assert [route.match for route in config.routes] == [route["match"] for route in routes]


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_every_bad_file_is_refused_with_exactly_these_lines(
    file: Path, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as refused:
        load(Path(file.name), env, kinds())
    assert str(refused.value).splitlines() == file.with_suffix(".expected").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("file", WARNED, ids=lambda file: file.stem)
def test_a_warned_file_loads_and_says_exactly_these_lines(
    file: Path, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    warnings: list[str] = []
    load(Path(file.name), env, kinds(), lambda warning: warnings.append(str(warning)))
    assert warnings == file.with_suffix(".expected").read_text(encoding="utf-8").splitlines()


def test_proxy_of_the_environment_that_cannot_be_spoken_to_is_a_mistake_where_it_would_be_used(
    env: Mapping[str, str], tmp_path: Path
) -> None:
    """Told at the provider, by the variable's name, and never with its password."""
    file = tmp_path / "c.toml"
    file.write_text(
        '[providers.a]\nkind = "webhook"\nurl = "https://a.example/"\nsecret = "s"\n[[delivery]]\nproviders = ["a"]\n'
    )
    with pytest.raises(ConfigError) as refused:
        load(file, {**env, "HTTPS_PROXY": f"socks5://ann:{LEAK}@proxy.lan:1080"}, kinds())
    [line] = str(refused.value).splitlines()
    assert "c.toml:3: providers.a.url: would be called through HTTPS_PROXY, which is a proxy" in line
    assert LEAK not in line
    for free in ({"NO_PROXY": "a.example"}, {"https_proxy": ""}, {"https_proxy": "proxy.lan:3128"}):
        load(file, {**env, "HTTPS_PROXY": "socks5://proxy.lan:1080", **free}, kinds())


def test_no_bad_file_lacks_its_lines_and_none_prints_a_secret(env: Mapping[str, str]) -> None:
    assert len(BAD) >= 25
    assert any(LEAK in file.read_text() for file in BAD)
    for file in BAD:
        lines = file.with_suffix(".expected").read_text(encoding="utf-8")
        assert lines
        assert not [value for value in (LEAK, *env.values()) if len(value) > 9 and value in lines]


def test_the_example_loads_and_shows_the_defaults_that_there_are(env: Mapping[str, str]) -> None:
    example, bare = load(EXAMPLE, env, kinds()), load(HERE / "good" / "empty.toml", env, kinds())
    for table in ("upstream", "outbound", "store", "identity", "code", "api"):
        assert getattr(example, table) == getattr(bare, table)
    changed = {"secret": LONG_SECRET}
    assert example.server == bare.server.model_copy(update=changed)
    assert example.numbers.model_copy(update={"test": {}}) == bare.numbers
    assert {name: example.limits[name] for name in ("ip", "to")} == {
        name: limit if limit.burst else limit.model_copy(update={"burst": example.limits[name].burst})
        for name, limit in bare.limits.items()
    }


def test_the_example_names_every_key_that_there_is(env: Mapping[str, str]) -> None:
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    config = load(EXAMPLE, env, kinds())

    def keys(table: object) -> set[str]:
        fields = type(table).model_fields  # type: ignore[attr-defined]
        return {field.alias or name for name, field in fields.items()}

    for name in ("server", "upstream", "store", "identity", "code", "numbers", "pumping", "budget", "api"):
        assert set(example[name]) == keys(getattr(config, name))
    shown = {key for route in example["routes"] for key in route}
    assert shown == keys(config.routes[0])
    assert set(example["delivery"][0]) == keys(config.delivery[0])
    assert set(example["limits"]["ip"]) == keys(config.limits["ip"])
    of_a_file = {"asn", "asn_file"}  # in comments, for there is none
    assert set(example["block"][0]) | of_a_file == keys(config.block[0])
    assert all(f"\n# {key} " in EXAMPLE.read_text(encoding="utf-8") for key in of_a_file)
    assert {table["kind"] for table in example["captcha"].values()} == set(kinds().captcha)
    assert {table["kind"] for table in example["providers"].values()} == set(kinds().providers)
    of_every_captcha = {"timeout", "on_failure", "failures"}
    for name, table in example["captcha"].items():
        assert set(table) | of_every_captcha == keys(config.captcha[name])
    assert of_every_captcha < set(example["captcha"]["altcha"])
    of_every_provider = {"rate", "receipt_token", "receipt_sources", "price"}
    assert of_every_provider < set(example["providers"]["twilio"])
    for name, table in example["providers"].items():
        assert set(table) | of_every_provider == keys(config.providers[name])


def test_tables_of_a_kind_become_the_settings_of_that_kind(env: Mapping[str, str]) -> None:
    config = load(EXAMPLE, env, kinds())
    assert {name: type(table) for name, table in config.captcha.items()} == dict(kinds().captcha)
    assert type(config.providers["hook"]) is kinds().providers["webhook"]


# The API is never left open by leaving something out…


def test_an_api_that_nobody_configured_demands_a_captcha_and_keeps_to_limits(read: Read) -> None:
    config = read("")
    assert config.captcha["altcha"].kind == "altcha"
    assert (config.limits["ip"].key, config.limits["ip"].rate) == ("ip", Rate(5, 60.0))
    assert (config.limits["to"].key, config.limits["to"].rate) == ("to", Rate(1, 60.0))


def test_what_the_file_defines_stands_before_what_is_built_in(read: Read) -> None:
    config = read('[captcha.altcha]\nkind = "turnstile"\nsecret = "x"\n[limits.ip]\nkey = "global"\nrate = "7/1s"\n')
    assert config.captcha["altcha"].kind == "turnstile"
    assert (config.limits["ip"].key, config.limits["to"].key) == ("global", "to")


def test_an_api_is_opened_only_in_so_many_words(read: Read) -> None:
    config = read('[api]\ncaptcha = ""\nlimits = []\n')
    assert (dict(config.captcha), dict(config.limits)) == ({}, {})


# `${…}`…


def test_an_environment_variable_stands_anywhere_in_a_text(read: Read) -> None:
    assert read('identity.issuer = "<${WEBHOOK_SECRET}|${SIDECAR_SECRET}>"').identity.issuer == (
        f"<whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw|{LONG_SECRET}>"
    )


@pytest.mark.parametrize(
    ("content", "value"), [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a"), ("a b", "a b"), ("é\n", "é")]
)
def test_what_is_put_in_loses_its_line_ends(
    content: str, value: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that an editor wrote, and a variable that a shell made of one, hold the value alone."""
    (tmp_path / "secret").write_bytes(content.encode())
    assert read(f'identity.issuer = "${{file:{tmp_path}/secret}}"').identity.issuer == value
    (tmp_path / "c.toml").write_text('identity.issuer = "${GIVEN}"')
    assert load(tmp_path / "c.toml", {"GIVEN": content}, kinds()).identity.issuer == value


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("two\nlines", "has a line end or another control character inside"),
        ("a\x00b", "has a line end or another control character inside"),
        (" first", "begins or ends with a space"),
        ("last\u00a0\n", "begins or ends with a space"),
    ],
)
def test_what_would_be_taken_and_never_fit_is_a_mistake(given: str, wrong: str, tmp_path: Path) -> None:
    """A secret with unseen octets in it is told when it is read, by its key and not by its value."""
    (tmp_path / "c.toml").write_text('[captcha.t]\nkind = "turnstile"\nsecret = "${GIVEN}"\nsite_key = "k"\n')
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "c.toml", {"GIVEN": given}, kinds())
    assert f"captcha.t.secret: {wrong}" in str(refused.value)
    assert given.strip() not in str(refused.value)


def test_what_comes_out_of_an_expansion_is_not_expanded_again(read: Read, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("${SIDECAR_SECRET}")
    assert read(f'identity.issuer = "${{file:{tmp_path}/secret}}"').identity.issuer == "${SIDECAR_SECRET}"


def test_two_dollars_are_one_that_expands_nothing(read: Read) -> None:
    assert read('identity.issuer = "$${SIDECAR_SECRET} $5 $$"').identity.issuer == "${SIDECAR_SECRET} $5 $$"


def test_texts_in_answers_are_expanded_too(read: Read) -> None:
    text = (
        '[[routes]]\nmatch = "POST /a"\naction = "guard"\nerrors.rate_limited.json = { a = ["${TURNSTILE_SITE_KEY}"] }'
    )
    assert read(text).routes[0].errors["rate_limited"].json_body == {"a": ["0x4AAA"]}


# Files as they are…


def test_a_missing_file_is_one_problem(env: Mapping[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "none.toml", env, kinds())
    assert str(refused.value) == (
        f"{tmp_path}/none.toml:1: file: cannot be read (No such file or directory), "
        "name a configuration that this user may read"
    )


def test_what_is_no_utf_8_is_told_with_its_line(env: Mapping[str, str], tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b'[server]\nstate_dir = "\xe9"\n')
    with pytest.raises(ConfigError) as refused:
        load(file, env, kinds())
    assert [(problem.line, problem.key) for problem in refused.value.problems] == [(2, "file")]


def test_a_byte_order_mark_and_windows_line_ends_are_taken(read: Read, told: Told) -> None:
    assert read('\ufeff[server]\r\ndrain = "2s"\r\n').server.drain == 2.0
    assert told("\ufeff[server]\r\n\r\ndrain = 2\r\n")[0].startswith("c.toml:3: server.drain: ")


def test_a_file_nested_without_end_is_refused(told: Told) -> None:
    lines = told("a = " + "[" * 100_000)
    assert len(lines) == 1
    assert ": TOML: " in lines[0]


# What is given is safe to hold…


def test_a_configuration_shows_no_secret_and_cannot_be_changed(env: Mapping[str, str]) -> None:
    config = load(EXAMPLE, env, kinds())
    shown = repr(config) + repr(dict(config.captcha)) + repr(dict(config.providers))
    for name in (
        "SIDECAR_SECRET",
        "TURNSTILE_SECRET",
        "GEETEST_CAPTCHA_KEY",
        "TENCENT_CAPTCHA_KEY",
        "TWILIO_AUTH_TOKEN",
        "WEBHOOK_SECRET",
    ):
        assert env[name] not in shown
    for name in ("ALIYUN_SECRET", "TENCENT_SECRET", "JUHE_KEY", "QINIU_SECRET"):
        assert env[name] not in shown
    assert "user:pass" not in shown
    assert "246810" not in shown
    assert config.server.secret == env["SIDECAR_SECRET"]
    with pytest.raises(ValueError, match="frozen"):
        config.server.secret = ""  # type: ignore[misc]
    for table in (config.limits, config.captcha, config.providers, config.numbers.test, config.routes[0].errors):
        with pytest.raises(TypeError):
            table["new"] = None  # type: ignore[index]
    assert hash(config.server) == hash(config.server.model_copy())


def test_a_problem_of_an_unforeseen_validator_shows_no_secret(env: Mapping[str, str], tmp_path: Path) -> None:
    class Talkative(kinds().providers["webhook"]):  # type: ignore[misc]
        def model_post_init(self, context: object, /) -> None:
            raise ValueError(f"{self.secret!r} is not what I expect; ask {self.url}")

    file = tmp_path / "c.toml"
    file.write_text(f'[providers.a]\nkind = "webhook"\nurl = "https://a.example"\nsecret = "{LEAK}"\n')
    with pytest.raises(ConfigError) as refused:
        load(file, env, Kinds(captcha=kinds().captcha, providers={"webhook": Talkative}))
    assert "'***' is not what I expect, ask https://a.example" in str(refused.value)


def test_the_name_of_a_field_in_our_code_is_no_key(told: Told) -> None:
    text = '[providers.a]\nkind = "twilio"\naccount_sid = "AC1"\nauth_token = "x"\nfrom_ = "+15005550006"\n'
    assert told(text)[0] == 'c.toml:5: providers.a.from_: is not known here, did you mean "from"?'


def test_true_is_not_one(told: Told) -> None:
    assert told("[server]\nworkers = true") == [
        (
            "c.toml:2: server.workers: true is no number of workers, write a number from 1 to 256,"
            ' or "auto" for one per core'
        )
    ]


def test_one_is_not_true(told: Told) -> None:
    assert told('[server]\ntrusted_proxies = ["10.0.0.0/8"]\nproxy_protocol = 1') == [
        "c.toml:3: server.proxy_protocol: 1 is no true or false, write true or false, without quotes"
    ]
