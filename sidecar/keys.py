"""Which keys sign, and which are published? PEM files under state_dir/keys, one a key, whose names carry the plan.

`<signs from, epoch seconds>-<kid>.pem`: the newest key whose time has come signs. A new key is published before it
signs, so that nobody meets a kid that they cannot look up, and an old one stays until its last token has expired.
"""

import base64
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

Algorithm = Literal["ES256", "EdDSA", "RS256"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

# How long upstreams may cache the JWKS; a new key signs after twice that.
JWKS_MAX_AGE_S: Final = 300
PUBLISH_AHEAD_S: Final = 2 * JWKS_MAX_AGE_S
# Clocks of upstreams may be this far behind ours.
_SKEW_S: Final = 60
# Of a hash that is made by hashlib: cryptography's own takes 8 µs longer.
_ECDSA: Final = ec.ECDSA(Prehashed(SHA256()))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair. `kid` is the JWK thumbprint (RFC 7638); `signs_from` is in epoch seconds."""

    kid: str
    signs_from: float
    private: PrivateKey = field(compare=False)
    sign: Callable[[bytes], bytes] = field(compare=False)  # the signature that a JWS has
    jwk: dict[str, str]

    def __repr__(self) -> str:
        return f"SigningKey({self.kid})"


def make(algorithm: Algorithm) -> PrivateKey:
    """A new key for the algorithm (RFC 7518 section 3.1, RFC 8037)."""
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=3072)


def algorithm_of(private: Any) -> Algorithm | None:
    """The algorithm that a key is for; None for a kind of key that we do not sign with."""
    match private:
        case ec.EllipticCurvePrivateKey() if isinstance(private.curve, ec.SECP256R1):
            return "ES256"
        case ed25519.Ed25519PrivateKey():
            return "EdDSA"
        case rsa.RSAPrivateKey() if private.key_size >= 2048:
            return "RS256"
        case _:
            return None


def signature(private: PrivateKey) -> Callable[[bytes], bytes]:
    """How a key signs a JWS: RFC 7518 sections 3.3 and 3.4, RFC 8037 section 3.1."""
    match private:
        case ec.EllipticCurvePrivateKey():
            return functools.partial(_es256, private)
        case rsa.RSAPrivateKey():
            return lambda octets: private.sign(octets, padding.PKCS1v15(), SHA256())
        case ed25519.Ed25519PrivateKey():
            return private.sign


def _es256(private: ec.EllipticCurvePrivateKey, octets: bytes) -> bytes:
    r, s = decode_dss_signature(private.sign(hashlib.sha256(octets).digest(), _ECDSA))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def read_pem(pem: str | bytes, signs_from: float) -> SigningKey:
    """Read a private key. Raises ValueError for what is no PEM key, or a kind that we do not sign with."""
    data = pem.encode() if isinstance(pem, str) else pem
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ValueError("not an unencrypted PEM private key") from None
    algorithm = algorithm_of(private)
    jwk: dict[str, str]
    match private:
        case ec.EllipticCurvePrivateKey() if algorithm:
            jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case ed25519.Ed25519PrivateKey() if algorithm:
            jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case rsa.RSAPrivateKey() if algorithm:
            jwk = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case _:
            raise ValueError("not a P-256, Ed25519 or RSA (2048 bits or more) key")
    # RFC 7638 section 3.2 and RFC 8037 section 2: the required members, in order, nothing else.
    required = {name: jwk[name] for name in sorted(("crv", "e", "kty", "n", "x", "y")) if name in jwk}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    kid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return SigningKey(
        kid, signs_from, private, signature(private), required | {"kid": kid, "alg": str(algorithm), "use": "sig"}
    )


def signing(keys: Sequence[SigningKey], algorithm: Algorithm, now: float) -> SigningKey | None:
    """The key that signs now: the newest whose time has come; None without a key for the algorithm.

    A clock that was set back may find all of them too early. The first one signs then: it is the one that upstreams
    know, and a new one would be a key that they have yet to look up.
    """
    fit = sorted((key for key in keys if algorithm_of(key.private) == algorithm), key=lambda key: key.signs_from)
    ready = [key for key in fit if key.signs_from <= now]
    if ready:
        return ready[-1]
    return fit[0] if fit else None


def retired(keys: Sequence[SigningKey], now: float, ttl_s: float) -> list[SigningKey]:
    """The keys whose last token has expired: a newer one has been signing for longer than a token lives."""
    started = sorted(key.signs_from for key in keys)
    return [key for key in keys if any(later > key.signs_from and later + ttl_s + _SKEW_S < now for later in started)]


class KeyFiles:
    """The keys of one state directory, read again when it changes: `keys rotate` needs no restart."""

    def __init__(self, folder: Path, algorithm: Algorithm, ttl_s: float, now: Callable[[], float]) -> None:
        self._folder = folder
        self._algorithm: Algorithm = algorithm
        self._ttl_s = ttl_s
        self._now = now
        self._seen = -1
        self._keys: tuple[SigningKey, ...] = ()

    def all(self) -> tuple[SigningKey, ...]:
        """Every key there is, the one that signs first last.

        Raises OSError, ValueError for a file that cannot be used; once there are keys, those are kept instead.
        """
        changed = 0
        with suppress(OSError):  # it is not there
            changed = self._folder.stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            try:
                found = tuple(_read(file) for file in sorted(self._folder.glob("*.pem")))
                if self._keys and not found:
                    raise FileNotFoundError(f"{self._folder} has no key any more")
                self._keys = found
            except (OSError, ValueError) as error:
                if not self._keys:
                    raise
                # Such as a key that root has rotated, and that is root's alone, or a volume that is gone. SIGHUP looks
                # again.
                structlog.get_logger().error("keys_unreadable", error=str(error), kept=len(self._keys))
        return self._keys

    def current(self) -> SigningKey:
        """The key that signs now; made when there is none yet."""
        key = signing(self.all(), self._algorithm, self._now())
        if key is None:
            self._write(self._now())
            key = signing(self.all(), self._algorithm, self._now())
        assert key is not None
        return key

    def rotate(self) -> SigningKey:
        """Publish a new key that signs from PUBLISH_AHEAD_S on, and remove the retired ones."""
        self.current()
        now = self._now()
        waiting = [key for key in self.all() if key.signs_from > now]
        if waiting:
            return waiting[-1]
        for key in retired(self.all(), now, self._ttl_s):
            self._file(key).unlink(missing_ok=True)
        return self._write(now + PUBLISH_AHEAD_S)

    def _write(self, signs_from: float) -> SigningKey:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = make(self._algorithm).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key = read_pem(pem, float(int(signs_from)))
        partial = self._folder / f".{key.kid}.new"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._file(key))
        self._seen = -1
        return key

    def _file(self, key: SigningKey) -> Path:
        return self._folder / f"{int(key.signs_from)}-{key.kid}.pem"


def _read(file: Path) -> SigningKey:
    try:
        return read_pem(file.read_bytes(), float(file.name.split("-", 1)[0]))
    except ValueError as error:
        raise ValueError(f"{file} is no signing key of ours: {error}") from None
