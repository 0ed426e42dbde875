"""How is a token verified by the call that reCAPTCHA made up, and Turnstile and hCaptcha took over? Pure.

A form with `secret` and `response` is posted; the answer is JSON with `success`, `hostname` and `error-codes`.
`success` must be true or false as JSON has it, and a host that the configuration names must be that of the answer: a
browser cannot forge it.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote_plus, urlsplit

from pydantic import AfterValidator, BeforeValidator

from sidecar.captcha import answer
from sidecar.captcha.seam import Outcome, Verdict
from sidecar.config.findings import UnfitError
from sidecar.config.model import Doubt
from sidecar.config.units import Text, one_or_more, text_or_list
from sidecar.outbound import HttpReply, HttpRequest

# RFC 3986 section 2.3: what is never escaped.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~-]*", re.ASCII).fullmatch
_FIELDS: Final = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json"))


def _spelt(host: str) -> str:
    """Spell a host name in one way: lower case, no dot at its end, other scripts as IDNA writes them."""
    name = host.lower().rstrip(".")
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return name


def _host(value: str) -> str:
    name = _spelt(value)
    if re.fullmatch(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", name):
        return name
    try:
        meant = urlsplit(value if "://" in value else f"//{value}").hostname or ""
    except ValueError:
        meant = ""
    example = meant if re.fullmatch(r"[\w-]+(?:\.[\w-]+)*", meant) else "www.example.com"
    raise UnfitError("is no host name alone", f'write "{example}", or a list of such')


# The hosts that a token may be from, in one spelling; none: not checked.
Hostnames = Annotated[tuple[Annotated[Text, AfterValidator(_host)], ...], BeforeValidator(one_or_more), text_or_list()]


def test_key(secret: str, known: Collection[str]) -> Iterable[Doubt]:
    """Doubt a secret that the vendor gives to everybody, for tests: one of `known`, which say yes to any token."""
    if secret in known:
        yield ("secret",), "is the vendor's key for tests, and lets everybody in", "write your own"


def request(endpoint: str, form_secret: str, token: str, client_ip: str, more: str = "") -> HttpRequest:
    """Ask about one token. `form_secret` is the secret as a form writes it; `more` are pairs of a form, "&a=b"."""
    form = f"secret={form_secret}&response={_escaped(token)}"
    if client_ip:
        form += f"&remoteip={_escaped(client_ip)}"
    return HttpRequest("POST", endpoint, _FIELDS, (form + more).encode())


def _escaped(text: str) -> str:
    """Write a value as a form has it: most tokens and addresses have nothing to escape, and to look takes 3 µs."""
    return text if _PLAIN(text) else quote_plus(text)


def read(reply: HttpReply, words: Mapping[str, Outcome], hostnames: tuple[str, ...]) -> dict[str, Any] | Verdict:
    """Read the answer: its members where it says yes of a token from one of `hostnames`, else what it says.

    `words`: the vendor's error codes -> ours; the first one listed there that an answer has, decides.
    """
    found = answer.members(reply.body) if reply.status == 200 else None
    if found is None:
        return Verdict("provider_error", answer.unreadable(reply))
    if found.get("success") is True:
        return found if is_from(found.get("hostname"), hostnames) else Verdict("policy", "hostname")
    if found.get("success") is False:
        codes = found.get("error-codes")
        given = codes if isinstance(codes, list) else []
        return next(
            (Verdict(outcome, code) for code, outcome in words.items() if code in given),
            Verdict("reject", "unknown_code"),
        )
    return Verdict("provider_error", "no_verdict")


def is_from(host: object, hostnames: tuple[str, ...]) -> bool:
    """True where an answer's host is one of `hostnames`, in any spelling, or none is asked for."""
    if not hostnames or host in hostnames:  # as it came: mostly in our spelling
        return True
    return isinstance(host, str) and _spelt(host) in hostnames


def has_score(score: object, least: float) -> bool:
    """True where a score is a number as JSON has it, and at least so high."""
    return type(score) in {int, float} and score >= least  # type: ignore[operator]
