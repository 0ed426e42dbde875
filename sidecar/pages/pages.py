"""What does a browser see of us? The hosted page that verifies a number, and the few files that it loads.

Everything comes from this folder; the page asks no other host, except for Turnstile's script where that is the
captcha. The law: no inline script at all, and nothing of the request reaches the page but escaped. Texts are in
`locales/`, English being the list of keys. Files are read once. Never speaks HTTP: the caller sends what it gets here.
"""

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

from sidecar import language

_HERE: Final = Path(__file__).parent

# What `static_file` gives out, and nothing else.
_STATIC: Final = {
    "client.js": "text/javascript; charset=utf-8",
    "verify.js": "text/javascript; charset=utf-8",
    "verify.css": "text/css; charset=utf-8",
    "altcha.min.js": "text/javascript; charset=utf-8",
}
_RIGHT_TO_LEFT: Final = frozenset({"ar"})
_TURNSTILE: Final = "https://challenges.cloudflare.com"


Texts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """An answer's content. `fields` are its own response fields, without Content-Type and Content-Length."""

    body: bytes
    content_type: str
    fields: tuple[tuple[str, str], ...]
    status: int = 200

    def __repr__(self) -> str:  # the body may hold a form's fields
        return f"Page({self.status}, {self.content_type}, {len(self.body)} octets)"


class Captcha(NamedTuple):
    """The captcha that the page shows: the TOML name, the kind, and what Turnstile's widget needs."""

    name: str
    kind: str
    site_key: str = ""
    action: str = ""


# The captcha kinds that the hosted page can show.
CAPTCHA_KINDS: Final = frozenset({"altcha", "turnstile"})


@dataclass(frozen=True, slots=True)
class Resume:
    """A browser's own request, to be sent again once the number is verified.

    It goes to the page's own address: no address is in it that could be another's. `fields` are the form's, in order,
    repeated names kept. A request whose content is JSON has it as `json`, and is sent again by script: no form can.
    """

    method: str
    fields: tuple[tuple[str, str], ...] = ()
    json: str | None = None

    def __repr__(self) -> str:  # the fields hold what a person typed, passwords too
        return f"Resume({self.method}, {len(self.fields)} fields)"


def hosted_page(
    *,
    prefix: str,
    captcha: Captcha | None,
    to: str,
    resume: Resume | None,
    code_length: int,
    locale: str,
    nonce: str,
    example: str,
    brand: str = "",
    captcha_always: bool = True,
) -> Page:
    """Make the page. `to` is the number as the form had it, or empty; `locale` is what `language.read` makes.

    `example` is a telephone number to show. Without `captcha_always` the captcha is shown once the API demands it.
    With `resume` the status is 403: it stands in place of the answer to a form that had no proof. `nonce` is fresh
    and unguessable per page, base64url; it lets the captcha widget's own style sheet in.
    Raises ValueError for a captcha kind that the page cannot show.
    """
    if captcha is not None and captcha.kind not in CAPTCHA_KINDS:
        raise ValueError(f"the hosted page cannot show the captcha kind {captcha.kind}")
    spoken = speak(locale)
    text = {name: with_number(sentence, example) for name, sentence in texts(spoken).items()}
    config = {
        "prefix": prefix,
        "language": spoken,
        "codeLength": code_length,
        "to": to.strip(),
        "captcha": None if captcha is None else captcha._asdict(),
        "captchaAlways": captcha_always,
        "resume": None if resume is None else asdict(resume),
        "text": text,
    }
    body = template("verify.html").substitute(
        {key: html.escape(value) for key, value in text.items()},
        language=spoken,
        direction=direction(spoken),
        mark=mark(),
        brand=brand_line(brand),
        prefix=html.escape(prefix),
        nonce=html.escape(nonce),
        code_pattern=f"[0-9]{{{code_length}}}",
        intro=html.escape(text["intro" if resume is None else "intro_form"]),
        widget="" if captcha is None or captcha.kind != "altcha" else _WIDGET.substitute(prefix=html.escape(prefix)),
        config=_json_for_html(config),
    )
    return Page(
        body.encode(),
        "text/html; charset=utf-8",
        page_fields(spoken, _content_security_policy(captcha, resume, nonce)),
        200 if resume is None else 403,
    )


def page_fields(spoken: str, policy: str) -> tuple[tuple[str, str], ...]:
    """The fields of every page: not kept, not framed, not guessed at; `policy` is its Content-Security-Policy."""
    return (
        ("Cache-Control", "no-store"),
        ("Content-Language", spoken),
        ("Content-Security-Policy", policy),
        # Not no-referrer: it would make the form's Origin "null", which upstream's own CSRF check refuses.
        ("Referrer-Policy", "same-origin"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
    )


def with_number(sentence: str, number: str) -> str:
    """Put a telephone number into a sentence, in one piece: a line ends before it, and not inside it."""
    return sentence.replace("{number}", number.replace(" ", "\N{NO-BREAK SPACE}"))


def speak(locale: str) -> str:
    """Choose the language of a page: the best that there are texts in; English where nothing fits."""
    return language.choose(locale, _texts()) or language.DEFAULT


def direction(spoken: str) -> str:
    return "rtl" if spoken in _RIGHT_TO_LEFT else "ltr"


def brand_line(brand: str) -> str:
    """Who asks, above the title; nothing where nobody said."""
    return f'<p class="brand">{html.escape(brand)}</p>' if brand else ""


def static_file(name: str, if_none_match: str = "") -> Page | None:
    """Give one of the page's files, as 304 when `if_none_match` (the request's field) names it; None for any other."""
    if name not in _STATIC:
        return None
    body, etag = _file(name)
    fields = (("Cache-Control", "no-cache"), ("ETag", etag), ("X-Content-Type-Options", "nosniff"))
    # A weak comparison, RFC 9110 section 13.1.2.
    if etag in {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}:
        return Page(b"", _STATIC[name], fields, 304)
    return Page(body, _STATIC[name], fields)


def languages() -> tuple[str, ...]:
    """The languages that there are texts in, English first."""
    return tuple(_texts())


_WIDGET: Final = Template('<script type="module" src="$prefix/static/altcha.min.js"></script>')


def _content_security_policy(captcha: Captcha | None, resume: Resume | None, nonce: str) -> str:
    """The least that the page and its captcha widget run with."""
    scripts, styles = "'self'", "'self'"
    # The page's own forms never leave by themselves. The one that it sends on may: its answer is often a redirect to
    # another origin, which browsers hold against form-action too, after upstream has done the work.
    more = "" if resume is not None else "; form-action 'none'"
    if captcha is not None and captcha.kind == "altcha":
        # It works in workers made from blobs, and adds one style sheet of its own, by the nonce in the page's meta.
        styles += f" 'nonce-{nonce}'"
        more += "; worker-src blob:"
    if captcha is not None and captcha.kind == "turnstile":
        scripts += f" {_TURNSTILE}"
        more += f"; frame-src {_TURNSTILE}"
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; "
        f"frame-ancestors 'none'; base-uri 'none'{more}"
    )


def _json_for_html(value: Any) -> str:
    """JSON that ends no script element and starts no comment in one; ASCII, so no U+2028 either."""
    text = json.dumps(value)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _texts() -> Mapping[str, Texts]:
    files = sorted((_HERE / "locales").glob("*.json"), key=lambda file: (file.stem != "en", file.stem))
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}


def texts(spoken: str) -> Texts:
    """The texts of one of `languages()`."""
    return _texts()[spoken]


@cache
def template(name: str) -> Template:
    return Template((_HERE / name).read_text("utf-8"))


@cache
def mark() -> str:
    """The shield above every title."""
    return (_HERE / "mark.svg").read_text("utf-8").strip()


@cache
def _file(name: str) -> tuple[bytes, str]:
    body = (_HERE / "static" / name).read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
