"""sidecar/cli.py: what is typed and what comes of it, as a child process."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from children import PATIENCE_S, Run, command, said

from sidecar import __version__
from sidecar.config.load import schema
from sidecar.kinds import kinds

GOOD = '[upstream]\nurl = "http://127.0.0.1:8000"\n[providers.console]\nkind = "console"\n'
GOOD += '[[delivery]]\nproviders = ["console"]\n'
VERIFY = '[[routes]]\nmatch = "POST /register"\naction = "verify"\nto = "json:phone"\ncode = "json:code"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "sidecar.toml"


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


async def test_version() -> None:
    assert await said("--version") == (0, f"signup-sidecar {__version__}\n", "")


async def test_help_names_every_command() -> None:
    code, out, _ = await said("--help")
    assert code == 0
    for name in ("run", "check", "demo", "block", "keys", "openapi", "schema"):
        assert f"\n    {name} " in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("chek",),
        ("check",),
        ("check", "a", "b"),
        ("keys", "delete", "a"),
        ("run",),
        ("demo", "--operators", "fast"),
    ],
)
async def test_bad_usage_exits_2_and_says_what_is_right(arguments: tuple[str, ...]) -> None:
    code, out, err = await said(*arguments)
    assert (code, out) == (2, "")
    assert "usage: " in err or "expected" in err


async def test_check_of_a_good_file_says_so_and_leaves_nothing_behind(config: Path) -> None:
    """No key, no secret, no store, no directory is made."""
    write(config, f'[server]\nstate_dir = "{config.parent / "state"}"\n{GOOD}')
    before = sorted(config.parent.rglob("*"))
    code, out, _ = await said("check", str(config))
    assert (code, out.splitlines()[0]) == (0, f"{config}: fine")
    assert sorted(config.parent.rglob("*")) == before


async def test_a_warning_is_printed_and_logged_and_stops_nothing(config: Path, run: Run) -> None:
    """`check` exits 0 after it, and `run` runs."""
    way_round = '[limits.all]\nkey = "global"\nrate = "9/1h"\n[[routes]]\nmatch = "POST /code"\naction = "send"\n'
    way_round += 'to = "json:phone"\nlimits = ["all"]\n'
    write(config, GOOD + way_round)
    code, out, err = await said("check", str(config))
    assert (code, out.splitlines()[0]) == (0, f"{config}: fine")
    assert (await said("check", "--strict", str(config)))[::2] == (2, err)
    assert err.startswith(f"{config}:14: warning: routes[0].limits[0]: ")
    child = await run(way_round)
    warned = next(line for line in child.lines if line["event"] == "config")
    assert (warned["level"], "warning: routes[0].limits[0]: " in warned["problem"]) == ("warning", True)


async def test_check_shows_what_happens_to_a_request(config: Path) -> None:
    """The routes in the order of their look-up, the API's own, and what becomes of everything else."""
    limits = '[limits.ip]\nkey = "ip"\nrate = "9/1m"\n[captcha.altcha]\nkind = "altcha"\n'
    code_route = '[[routes]]\nmatch = "POST /code"\naction = "send"\nto = "json:phone"\nlimits = ["ip"]\n'
    code_route += 'captcha = "altcha"\ncaptcha_token = "json:captcha"\n'
    write(config, GOOD + limits + code_route + VERIFY + 'mode = "observe"\n')
    code, out, err = await said("check", "--strict", str(config))
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["MATCH", "ACTION", "LIMITS", "CAPTCHA"],
        ["POST", "/code", "send", "ip", "altcha"],
        ["POST", "/register", "verify", "-", "-", "(observe", "only)"],
        ["POST", "/.sidecar/v1/verifications", "send", "ip,", "to", "altcha"],
        ["everything", "else", "pass", "-", "-"],
    ]


async def test_check_says_in_words_what_the_lists_come_to(config: Path) -> None:
    """That all conditions of one table must hold is told by "and"."""
    lists = '[[block]]\ncidr = ["203.0.113.0/24", "2001:db8::/32"]\nagent = ["curl/"]\n[[block]]\n'
    lists += 'prefix = ["+8811", "+8812", "+8813", "+8814", "+8815"]\n[[allow]]\ncidr = ["192.0.2.0/24"]\n'
    write(config, GOOD + VERIFY + lists)
    code, out, err = await said("check", "--strict", str(config))
    assert (code, err) == (0, "")
    assert out.splitlines()[-3:] == [
        "never block  address in 192.0.2.0/24",
        'block        address in 203.0.113.0/24 or 2001:db8::/32 and User-Agent with "curl/"',
        "block        number beginning with +8811 or +8812 or +8813 or 2 more",
    ]


@pytest.mark.parametrize(("to", "noted"), [("form:phone", True), ("json:phone", False)])
async def test_check_notes_below_the_table_that_no_multipart_form_is_read(config: Path, to: str, noted: bool) -> None:
    """Nothing in the configuration could silence it, so it is no warning, and `--strict` takes no notice."""
    write(config, GOOD + VERIFY.replace("json:", f"{to.partition(':')[0]}:"))
    code, out, err = await said("check", "--strict", str(config))
    assert (code, err) == (0, "")
    assert ("multipart" in out.partition("everything else")[2]) is noted


@pytest.mark.parametrize(
    ("text", "key", "right"),
    [
        (GOOD, "routes", "add [[routes]]"),
        (GOOD + '[[routes]]\nmatch = "* /*"\naction = "pass"\n', "routes", 'write action = "send"'),
        (GOOD + '[[routes]]\nmatch = "PSOT /a"\naction = "guard"\n', "routes[0].match", 'did you mean "POST"?'),
        (VERIFY, "api.send", "add [providers.NAME]"),
    ],
)
async def test_what_works_and_does_nothing_is_warned_of(config: Path, text: str, key: str, right: str) -> None:
    """A file without a mistake may still guard nothing, or send nothing."""
    write(config, text)
    code, _, err = await said("check", str(config))
    assert code == 0
    (line,) = err.splitlines()
    assert f": warning: {key}: " in line
    assert right in line


async def test_check_of_a_bad_file_tells_every_problem_and_no_secret(config: Path) -> None:
    """Exit code 2; FILE:LINE: key: what is wrong, what would be right. What a secret is stays a secret."""
    write(
        config,
        '[server]\nsecret = "${SHORT}"\nlisten = "nowhere"\n[identity]\nalgorithm = "HS256"\nsecret = "${SHORT}"\n'
        '[upstream]\nurl = "${MISSING}"\n',
    )
    code, out, err = await said("check", str(config), env={"SHORT": "hunter2-hunter"})
    assert (code, out) == (2, "")
    keys = [line.removeprefix(f"{config}:").split(": ")[:2] for line in err.splitlines()]
    assert keys == [["2", "server.secret"], ["3", "server.listen"], ["6", "identity.secret"], ["8", "upstream.url"]]
    assert "hunter2" not in err


@pytest.mark.parametrize("verb", [("check",), ("run",), ("keys", "list"), ("keys", "rotate")])
async def test_a_file_that_is_not_there_is_a_bad_configuration(tmp_path: Path, verb: tuple[str, ...]) -> None:
    code, out, err = await said(*verb, str(tmp_path / "none.toml"))
    assert (code, out) == (2, "")
    assert err.startswith(f"{tmp_path / 'none.toml'}:1: file: cannot be read")


async def test_the_schema_is_printed_for_an_editor() -> None:
    """JSON Schema with every table, and with every kind that there is a file of."""
    code, out, _ = await said("schema")
    assert code == 0
    assert json.loads(out) == schema(kinds())
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


async def test_openapi_is_the_document_that_the_api_serves(run: Run) -> None:
    child = await run()
    code, out, _ = await said("openapi")
    assert code == 0
    assert json.loads(out)["openapi"].startswith("3.1")
    assert json.loads((await child.asked("/.sidecar/openapi.json"))[1]) == json.loads(out)


async def test_a_key_rotated_beside_a_running_sidecar_is_published_at_once(run: Run) -> None:
    """`keys rotate` needs no restart and no signal; the old key still signs, and the list says so."""
    child = await run(VERIFY)

    async def published() -> list[str]:
        return [
            key["kid"] for key in json.loads((await child.asked("/.sidecar/jwks.json", child.admin_port))[1])["keys"]
        ]

    (old,) = await published()
    code, out, _ = await said("keys", "rotate", str(child.path))
    assert code == 0
    new = out.split()[0]
    assert out.startswith(f"{new} is published now and signs from ")
    assert await published() == [old, new]
    code, out, _ = await said("keys", "list", str(child.path))
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()] == [[old, "ES256", "signs"], [new, "ES256", "waits"]]


async def test_keys_of_a_configuration_that_names_its_own(config: Path) -> None:
    """There is nothing to rotate: exit code 2, and what to do instead."""
    write(config, GOOD + '[identity]\nalgorithm = "HS256"\nsecret = "0123456789abcdef0123456789abcdef"\n')
    code, out, err = await said("keys", "rotate", str(config))
    assert (code, out) == (2, "")
    assert "SIGHUP" in err


@pytest.mark.parametrize("arguments", [("schema",), ("--help",), ("check", "good")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_reader_that_leaves_early_is_no_error(
    config: Path, arguments: tuple[str, ...], unbuffered: str
) -> None:
    """`signup-sidecar schema | head`: whether it prints more than Python holds back, or less."""
    write(config, GOOD)
    read, written = os.pipe()
    os.close(read)
    arguments = tuple(str(config) if word == "good" else word for word in arguments)
    process = await command(*arguments, stdout=written, env={"PYTHONUNBUFFERED": unbuffered})
    os.close(written)
    async with asyncio.timeout(PATIENCE_S):
        _, err = await process.communicate()
    code, _, told = await said(*arguments)
    assert (process.returncode, err.decode()) == (code, told)
    assert code == 0


@pytest.mark.parametrize("arguments", ["schema", "--help"])
async def test_an_answer_that_cannot_be_written_is_an_error(arguments: str) -> None:
    """`signup-sidecar schema > FILE` on a full disk: exit code 1, and why."""
    full = os.open("/dev/full", os.O_WRONLY)
    process = await command(arguments, stdout=full, env={"PYTHONUNBUFFERED": ""})
    os.close(full)
    async with asyncio.timeout(PATIENCE_S):
        _, err = await process.communicate()
    assert process.returncode == 1
    assert err.endswith(b"No space left on device\n")
