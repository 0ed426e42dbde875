"""What configurations are read with: an environment like a deployment's, and the real kinds."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.app import kinds
from sidecar.config.load import ConfigError, load
from sidecar.config.model import Config

LONG_SECRET = "a-secret-of-more-than-32-characters"
# Stands in files where a secret is, and must stand in no message.
LEAK = "hunter2-do-not-print-me"


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def deployment() -> Mapping[str, str]:
    return {
        "SIDECAR_SECRET": LONG_SECRET,
        "TURNSTILE_SECRET": "turnstile-secret",
        "TURNSTILE_SITE_KEY": "0x4AAA",
        "YIDUN_CAPTCHA_ID": "captcha-id",
        "YIDUN_SECRET_ID": "secret-id",
        "YIDUN_SECRET_KEY": "secret-key",
        "TWILIO_ACCOUNT_SID": "AC0123456789",
        "TWILIO_AUTH_TOKEN": "twilio-token",
        "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "EMPTY": "",
        "DRAIN": "soon",
        "LEAK": LEAK,
        "EC_KEY": _pem(ec.generate_private_key(ec.SECP256R1())),
        "P384_KEY": _pem(ec.generate_private_key(ec.SECP384R1())),
        "ED_KEY": _pem(ed25519.Ed25519PrivateKey.generate()),
        "RSA_KEY": _pem(rsa.generate_private_key(65537, 2048)),
        "SMALL_RSA_KEY": _pem(rsa.generate_private_key(65537, 1024)),
    }


@pytest.fixture(scope="session")
def env() -> Mapping[str, str]:
    return deployment()


Read = Callable[[str], Config]
Told = Callable[[str], list[str]]


@pytest.fixture
def read(env: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Loads a TOML text."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str) -> Config:
        Path("c.toml").write_bytes(text.encode())
        return load(Path("c.toml"), env, kinds())

    return loaded


@pytest.fixture
def told(read: Read) -> Told:
    """Gives the lines that a TOML text is refused with; none if it loads."""

    def lines(text: str) -> list[str]:
        try:
            read(text)
        except ConfigError as error:
            return str(error).splitlines()
        return []

    return lines
