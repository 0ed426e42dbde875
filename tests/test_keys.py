"""sidecar/keys.py: a key is published before it signs, and kept until its last token has expired."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from sidecar.keys import PUBLISH_AHEAD_S, KeyFiles, make, read_pem, signing

# Of secp112r1, a curve that nobody should sign with.
WEAK = """-----BEGIN PRIVATE KEY-----
ME4CAQAwEAYHKoZIzj0CAQYFK4EEAAYENzA1AgEBBA7JSkic/qz1Rb4MZy/22qEg
Ax4ABCP/ARNYITtXoJnotT+VhzAYqqel2w+Gx5xDXTY=
-----END PRIVATE KEY-----
"""


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_the_first_key_is_made_and_found_again(tmp_path: Path, algorithm: str) -> None:
    """A restart signs with the same key; the file is its owner's only."""
    files = KeyFiles(tmp_path / "keys", algorithm, 60, Clock())  # type: ignore[arg-type]
    key = files.current()
    assert key.jwk["alg"] == algorithm
    assert "d" not in key.jwk
    assert KeyFiles(tmp_path / "keys", algorithm, 60, Clock()).current().kid == key.kid  # type: ignore[arg-type]
    (file,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_rotated_key_is_published_before_it_signs_and_the_old_one_stays(tmp_path: Path) -> None:
    """The story of one rotation, on a clock that the test moves."""
    clock = Clock()
    files = KeyFiles(tmp_path, "ES256", 60, clock)
    old = files.current()
    new = files.rotate()
    assert files.current() == old
    assert {key.kid for key in files.all()} == {old.kid, new.kid}
    assert files.rotate() == new, "a key already waits: a second command makes no third"
    clock.now += PUBLISH_AHEAD_S - 1
    assert files.current() == old
    clock.now += 1
    assert files.current() == new
    clock.now += 60
    newest = files.rotate()
    assert {key.kid for key in files.all()} == {old.kid, new.kid, newest.kid}, "old tokens may still be under way"
    clock.now += PUBLISH_AHEAD_S + 200
    files.rotate()
    kept = {key.kid for key in files.all()}
    assert old.kid not in kept
    assert {new.kid, newest.kid} & kept == {newest.kid}


def test_a_running_process_sees_the_rotation_of_another(tmp_path: Path) -> None:
    """`keys rotate` beside a running sidecar needs no restart."""
    running, command = (KeyFiles(tmp_path, "ES256", 60, Clock()) for _ in range(2))
    running.current()
    new = command.rotate()
    assert new.kid in {key.kid for key in running.all()}


def test_only_keys_that_fit_the_algorithm_sign(tmp_path: Path) -> None:
    """A changed `identity.algorithm` makes its own key, and the old one stays published."""
    old = KeyFiles(tmp_path, "ES256", 60, Clock()).current()
    files = KeyFiles(tmp_path, "EdDSA", 60, Clock())
    assert files.current().jwk["alg"] == "EdDSA"
    assert old.kid in {key.kid for key in files.all()}
    assert signing([old], "EdDSA", Clock.now) is None


def test_thumbprint_as_the_rfc_has_it() -> None:
    """RFC 7638: the kid depends on the public key only."""
    pem = make("ES256").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert read_pem(pem, 1.0).kid == read_pem(pem.decode(), 2.0).kid


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ec.generate_private_key(ec.SECP384R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode(),
        WEAK,
    ],
    ids=["empty", "garbled", "other curve", "a curve that nobody knows"],
)
def test_what_we_cannot_sign_with_is_refused(pem: str) -> None:
    """Only P-256, Ed25519 and RSA keys are read."""
    with pytest.raises(ValueError, match="not a"):
        read_pem(pem, 0)


@pytest.mark.parametrize("name", ["1-garbled.pem", "garbled.pem"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    """At the start there is nothing to sign with instead."""
    (tmp_path / name).write_text("garbled")
    with pytest.raises(ValueError, match=name):
        KeyFiles(tmp_path, "ES256", 60, Clock()).current()


def test_a_file_that_comes_later_and_cannot_be_used_stops_nothing(tmp_path: Path) -> None:
    """The keys that there are go on signing."""
    files = KeyFiles(tmp_path, "ES256", 60, Clock())
    key = files.current()
    (tmp_path / "1-garbled.pem").write_text("garbled")
    with capture_logs() as logs:
        assert files.current() == key
        assert files.all() == (key,)
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("keys_unreadable", "error")
    assert "1-garbled.pem" in line["error"]


def test_a_clock_that_was_set_back_makes_no_new_key(tmp_path: Path) -> None:
    """The first key signs while none has come to its time: upstreams know it."""
    now = [1_000_000.0]
    files = KeyFiles(tmp_path, "ES256", 60.0, lambda: now[0])
    first = files.current()
    files.rotate()
    now[0] -= 86_400.0
    assert files.current().kid == first.kid
    assert len(files.all()) == 2
    now[0] += 2 * 86_400.0
    assert files.current().kid != first.kid


def test_keys_whose_folder_is_gone_go_on(tmp_path: Path) -> None:
    """A volume that was unmounted: what is known signs, once it is told, and no new key is made."""
    files = KeyFiles(tmp_path / "keys", "ES256", 60.0, lambda: 1_000_000.0)
    first = files.current()
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    with capture_logs() as lines:
        assert {files.current().kid for _ in range(3)} == {first.kid}
    assert [line["event"] for line in lines] == ["keys_unreadable"]
    assert not (tmp_path / "keys").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "keys")
    assert files.current().kid == first.kid
