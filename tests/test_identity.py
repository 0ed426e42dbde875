"""sidecar/identity.py: what upstream can rely on."""

import hashlib

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from sidecar.config.model import Identity
from sidecar.identity import Bound, Signer, of_captcha, of_recipient
from sidecar.keys import SigningKey, make, read_pem
from sidecar.recipient import parse

BOUND = Bound("POST", "/api/register", b'{"phone":"13900000001"}')
NOW = 1_800_000_000.5


def key(algorithm: str) -> SigningKey:
    pem = make(algorithm).private_bytes(  # type: ignore[arg-type]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return read_pem(pem, 0)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
def test_a_token_verifies_against_the_jwks_and_says_all_of_the_contract(algorithm: str) -> None:
    """Header kid; every claim of contract section 3, with its value."""
    signer = Signer(Identity(algorithm=algorithm), key(algorithm), lambda: NOW, lambda: "unique")
    token = signer.sign(of_recipient(parse("+8613900000001", "sms", "CN"), "the-id"), BOUND)
    (published,) = jwt.PyJWKSet.from_dict(signer.jwks()).keys
    assert jwt.get_unverified_header(token)["kid"] == published.key_id
    claims = jwt.decode(
        token, published, algorithms=[algorithm], audience="upstream", issuer="signup-sidecar",
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )  # fmt: skip
    assert claims == {
        "iss": "signup-sidecar",
        "aud": "upstream",
        "sub": "+8613900000001",
        "iat": 1_800_000_000,
        "nbf": 1_800_000_000,
        "exp": 1_800_000_060,
        "jti": "unique",
        "phone_number": "+8613900000001",
        "phone_number_verified": True,
        "amr": ["sms"],
        "verification_id": "the-id",
        "htm": "POST",
        "htu": "/api/register",
        "body_sha256": hashlib.sha256(BOUND.body).hexdigest(),
    }


def test_hs256_signs_with_the_secret_and_publishes_nothing() -> None:
    """A shared secret is no public key."""
    secret = "h" * 32
    signer = Signer(Identity(algorithm="HS256", secret=secret), None, lambda: NOW, lambda: "unique")
    token = signer.sign(of_recipient(parse("a@b.example", "email", "CN"), "the-id"), BOUND)
    options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    claims = jwt.decode(token, secret, algorithms=["HS256"], audience="upstream", options=options)  # type: ignore[arg-type]
    assert (claims["email"], claims["email_verified"], claims["amr"]) == ("a@b.example", True, ["email"])
    assert "phone_number" not in claims
    assert signer.jwks() == {"keys": []}


def test_a_captcha_says_only_that() -> None:
    """A guarded request has no subject."""
    signer = Signer(Identity(), key("ES256"), lambda: NOW, lambda: "unique")
    claims = jwt.decode(signer.sign(of_captcha(), BOUND), options={"verify_signature": False})
    assert claims["amr"] == ["captcha"]
    assert not {"sub", "phone_number", "email", "verification_id"} & set(claims)
