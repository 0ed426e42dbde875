"""What does one server secret protect? One derived key per purpose (HKDF, RFC 5869), and nothing shared between them.

No I/O but the randomness that it is handed. A value sealed or hashed here under a previous secret is still read, so
that `server.previous_secrets` makes a rotation seamless.
"""

import binascii
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# RFC 8439 section 2.3: the nonce of ChaCha20-Poly1305.
_NONCE: Final = 12
# Characters that tell which secret a verification id was made under: enough to tell a handful of secrets apart.
FINGERPRINT: Final = 4
# Values whose hashes are remembered, and the longest of them.
_KEPT: Final = 1024
_MAX_KEPT: Final = 256


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def b64url(data: bytes) -> str:
    """Base64url without padding, RFC 4648 section 5."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=").decode()


def unb64url(text: str) -> bytes:
    """The inverse of `b64url`. Raises ValueError."""
    octets = (text + "=" * (-len(text) % 4)).encode("ascii").translate(_FROM_URL)
    return binascii.a2b_base64(octets, strict_mode=True)


class _Keys:
    """The keys of one secret."""

    def __init__(self, secret: str) -> None:
        def derive(purpose: str, length: int = 32) -> bytes:
            return HKDF(SHA256(), length, salt=None, info=f"signup-sidecar/{purpose}".encode()).derive(secret.encode())

        self.fingerprint = b64url(derive("fingerprint", FINGERPRINT * 6 // 8))
        self.codes = derive("codes")
        self.tokens = derive("tokens")
        # Keyed BLAKE2 (RFC 7693): a third of HMAC-SHA-256's time, and a flood has two new addresses' hashes a request.
        self.hashing = hashlib.blake2b(key=derive("hashes"), digest_size=16)
        self.captcha = derive("captcha")
        self.sealing = ChaCha20Poly1305(derive("sealing"))

    def hash(self, octets: bytes) -> str:
        hashing = self.hashing.copy()
        hashing.update(octets)
        return b64url(hashing.digest())


class Secret:
    """The current server secret and those still accepted."""

    def __init__(self, secret: str, previous: Sequence[str], urandom: Callable[[int], bytes]) -> None:
        if not secret:
            raise ValueError("the server secret is empty")
        self._all = tuple(_Keys(text) for text in (secret, *previous))
        by_fingerprint = {keys.fingerprint: keys for keys in reversed(self._all)}
        # By a secret's fingerprint, the keys that codes are derived and tokens made with; None for one that is not (or
        # no longer) accepted.
        self.code_key: Final = {fingerprint: keys.codes for fingerprint, keys in by_fingerprint.items()}.get
        self.token_key: Final = {fingerprint: keys.tokens for fingerprint, keys in by_fingerprint.items()}.get
        # The fingerprints of every secret that is accepted.
        self.accepted: Final = frozenset(by_fingerprint)
        self._urandom = urandom
        self._kept_hashes = functools.lru_cache(_KEPT)(self._hashes)
        # Which secret this is, in FINGERPRINT base64url characters; says nothing of the secret.
        self.fingerprint: Final = self._all[0].fingerprint

    @property
    def captcha_key(self) -> bytes:
        """Signs the challenges of built-in captchas."""
        return self._all[0].captcha

    def hash(self, value: str) -> str:
        """A keyed hash for store keys: 128 bits as 22 characters. Who reads the store cannot test guesses with it."""
        return self.hashes(value)[0]

    def hashes(self, value: str) -> tuple[str, ...]:
        """`hash`, then the same under each previous secret."""
        # One request asks for the same few more than once, and an address comes again. Few are kept: they are private.
        return (self._kept_hashes if len(value) <= _MAX_KEPT else self._hashes)(value)

    def _hashes(self, value: str) -> tuple[str, ...]:
        octets = value.encode("utf-8", "surrogatepass")
        return tuple([keys.hash(octets) for keys in self._all])

    def seal(self, plain: str) -> bytes:
        """Encrypt for the store (ChaCha20-Poly1305, RFC 8439), a random nonce first."""
        nonce = self._urandom(_NONCE)
        return nonce + self._all[0].sealing.encrypt(nonce, plain.encode(), None)

    def open(self, sealed: bytes) -> str:
        """The inverse of `seal`. Raises ValueError when no accepted secret sealed it."""
        for keys in self._all:
            try:
                return keys.sealing.decrypt(sealed[:_NONCE], sealed[_NONCE:], None).decode()
            except (InvalidTag, ValueError):
                continue
        raise ValueError("not sealed under an accepted secret")
