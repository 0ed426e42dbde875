"""A deployment's environment, as the files of good/ and bad/ name it."""

from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sidecar.config.model import Config

Read = Callable[[str], Config]
Told = Callable[[str], list[str]]

LONG_SECRET = "a-secret-of-more-than-32-characters"
# Stands in files where a secret is, and must stand in no message.
LEAK = "hunter2-leak"


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def deployment() -> Mapping[str, str]:
    return {
        "SIDECAR_SECRET": LONG_SECRET,
        "TURNSTILE_SECRET": "turnstile-secret",
        "TURNSTILE_SITE_KEY": "0x4AAA",
        "HCAPTCHA_SECRET": "hcaptcha-secret",
        "HCAPTCHA_SITE_KEY": "10000000-site",
        "RECAPTCHA_SECRET": "recaptcha-secret",
        "RECAPTCHA_SITE_KEY": "6Lsite-key",
        "GEETEST_CAPTCHA_ID": "geetest-id",
        "GEETEST_CAPTCHA_KEY": "geetest-key",
        "TENCENT_CAPTCHA_KEY": "tencent-captcha-key",
        "YIDUN_CAPTCHA_ID": "captcha-id",
        "YIDUN_SECRET_ID": "secret-id",
        "YIDUN_SECRET_KEY": "secret-key",
        "TWILIO_ACCOUNT_SID": "AC0123456789",
        "TWILIO_AUTH_TOKEN": "twilio-token",
        "ALIYUN_ID": "aliyun-id",
        "ALIYUN_SECRET": "aliyun-secret",
        "TENCENT_ID": "tencent-id",
        "TENCENT_SECRET": "tencent-secret",
        "JUHE_KEY": "juhe-key",
        "QINIU_ACCESS": "qiniu-access",
        "QINIU_SECRET": "qiniu-secret",
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
