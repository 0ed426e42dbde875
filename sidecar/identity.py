"""How does upstream know? A JWT (RFC 7519) in one request field, bound to this very request.

`claims` is pure; `Signer` holds the keys. Claim names are OpenID Connect's and RFC 8176's; `htm` and `htu` follow
DPoP (RFC 9449), `body_sha256` is ours.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from sidecar.config.model import Identity
from sidecar.keys import KeyFiles, SigningKey
from sidecar.recipient import Recipient


@dataclass(frozen=True, slots=True)
class Bound:
    """The request that a JWT is good for: its method, its path as upstream gets it (no query), its body."""

    method: str
    path: str
    body: bytes


def claims(rules: Identity, bound: Bound, now: float, jti: str) -> dict[str, Any]:
    """The claims that every JWT has. `now` is in epoch seconds."""
    issued = int(now)
    return {
        "iss": rules.issuer,
        "aud": rules.audience,
        "iat": issued,
        "nbf": issued,
        "exp": issued + max(1, int(rules.ttl)),
        "jti": jti,
        "htm": bound.method,
        "htu": bound.path,
        "body_sha256": hashlib.sha256(bound.body).hexdigest(),
    }


def of_recipient(recipient: Recipient, verification_id: str) -> dict[str, Any]:
    """The claims of a request that came with a verified proof."""
    proven: dict[str, Any] = {"sub": recipient.address, "amr": [recipient.channel], "verification_id": verification_id}
    if recipient.channel == "email":
        return proven | {"email": recipient.address, "email_verified": True}
    return proven | {"phone_number": recipient.address, "phone_number_verified": True}


def of_captcha() -> dict[str, Any]:
    """The claims of a guarded request: a person, nobody says who."""
    return {"amr": ["captcha"]}


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

    def sign(self, proven: Mapping[str, Any], bound: Bound) -> str:
        """The JWT that says `proven` of the request `bound`."""
        payload = claims(self._rules, bound, self._now(), self._new_id()) | dict(proven)
        if self._keys is None:
            return jwt.encode(payload, self._rules.secret, algorithm="HS256")
        key = self._keys if isinstance(self._keys, SigningKey) else self._keys.current()
        return jwt.encode(payload, key.private, algorithm=self._rules.algorithm, headers={"kid": key.kid})

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
