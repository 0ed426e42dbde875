"""How does upstream know? A JWT (RFC 7519) in one request field, bound to this very request.

`Signer` holds the keys. Claim names are OpenID Connect's and RFC 8176's; `htm` and `htu` follow
DPoP (RFC 9449), `body_sha256` is ours.
"""

import hashlib
import hmac
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as _text
from typing import Any, Final

from sidecar.config.model import Identity
from sidecar.keys import KeyFiles, SigningKey
from sidecar.recipient import Recipient
from sidecar.secret import b64url

# How often the key that signs is looked up.
_LOOK_S: Final = 1.0


@dataclass(slots=True)  # not frozen: it is made for every verify
class Bound:
    """The request that a JWT is good for: its method, its path as upstream gets it (no query), its body."""

    method: str
    path: str
    body: bytes


def of_recipient(recipient: Recipient, verification_id: str) -> str:
    """The claims of a request that came with a verified proof, as members of a JSON object."""
    channel, address = recipient.channel, _text(recipient.address)
    name = "email" if channel == "email" else "phone_number"
    return (
        f'"sub":{address},"amr":["{channel}"],"verification_id":{_text(verification_id)},'
        f'"{name}":{address},"{name}_verified":true'
    )


def of_captcha() -> str:
    """The claims of a guarded request: a person, nobody says who."""
    return '"amr":["captcha"]'


class Signer:
    """Signs with the configured key, the secret, or the newest key file."""

    def __init__(
        self,
        rules: Identity,
        keys: KeyFiles | SigningKey | None,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`keys` is None for HS256 only, which signs with `rules.secret`."""
        self._rules = rules
        self._keys = keys
        self._now = now
        self._new_id = new_id
        self._life_s = max(1, int(rules.ttl))
        self._issuer = f'"iss":{_text(rules.issuer)},"aud":{_text(rules.audience)}'
        # Which key signs, and the head of every JWT that it signs; when that was last looked up.
        self._current: tuple[SigningKey | None, bytes] = None, b""
        self._looked_at = -math.inf

    def sign(self, proven: str, bound: Bound) -> bytes:
        """The JWT that says `proven` of the request `bound`: a compact JWS, RFC 7515 section 7.1."""
        now = self._now()
        key, head = self._signing(now)
        octets = head + b64url(self._claims(proven, bound, int(now)).encode()).encode()
        signature = key.sign(octets) if key else hmac.digest(self._rules.secret.encode(), octets, "sha256")
        return b"%b.%b" % (octets, b64url(signature).encode())

    def _claims(self, proven: str, bound: Bound, issued: int) -> str:
        """What is `proven`, and the claims that every JWT has: as text, which takes a third of the time of a dict."""
        return (
            f'{{{self._issuer},"iat":{issued},"nbf":{issued},"exp":{issued + self._life_s},'
            f'"jti":{_text(self._new_id())},"htm":{_text(bound.method)},"htu":{_text(bound.path)},'
            f'"body_sha256":"{hashlib.sha256(bound.body).hexdigest()}",{proven}}}'
        )

    def _signing(self, now: float) -> tuple[SigningKey | None, bytes]:
        """Which key signs now, looked up once a second: a new one is published long before it signs; its JWTs' head."""
        if not 0 <= now - self._looked_at < _LOOK_S:
            key = self._keys.current() if isinstance(self._keys, KeyFiles) else self._keys
            said = {"typ": "JWT", "alg": self._rules.algorithm} | ({"kid": key.kid} if key else {})
            self._current = key, f"{b64url(json.dumps(said, separators=(',', ':')).encode())}.".encode()
            self._looked_at = now
        return self._current

    def jwks(self) -> dict[str, Any]:
        """The public keys, RFC 7517 section 5. Empty for HS256, whose key is a secret."""
        match self._keys:
            case None:
                return {"keys": []}
            case SigningKey():
                return {"keys": [self._keys.jwk]}
            case KeyFiles():
                self._keys.current()
                return {"keys": [key.jwk for key in self._keys.all()]}
