"""What does a browser see of us? The hosted page that verifies a number, and the few files that it loads.

Everything comes from this folder; the page asks no other host, except for those of the vendors whose captchas it shows.
The law: no inline script at all, and nothing of the request reaches the page but escaped. Texts are in
`locales/`, English being the list of keys. Files are read once. Never speaks HTTP: the caller sends what it gets here.
"""

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sidecar import language

_HERE: Final = Path(__file__).parent

# What `static_file` gives out, and nothing else.
_STATIC: Final = {
    "client.js": "text/javascript; charset=utf-8",
    "verify.js": "text/javascript; charset=utf-8",
    "verify.css": "text/css; charset=utf-8",
    "captcha.js": "text/javascript; charset=utf-8",
    "altcha.min.js": "text/javascript; charset=utf-8",
    "slider.js": "text/javascript; charset=utf-8",
}
_RIGHT_TO_LEFT: Final = frozenset({"ar"})

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
    """A captcha that the page may show: the TOML name, the kind, and what its widget needs: no secret.

    `keys["script"]` is the address of a vendor's script.
    """

    name: str
    kind: str
    keys: Mapping[str, str] = MappingProxyType({})


class Sources(NamedTuple):
    """What a captcha's widget loads beside its script: sources of a Content-Security-Policy, for each directive."""

    script: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    connect: tuple[str, ...] = ()
    frame: tuple[str, ...] = ()
    img: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    font: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()


_HCAPTCHA: Final = ("https://hcaptcha.com", "https://*.hcaptcha.com")
_RECAPTCHA: Final = tuple(f"https://www.{host}/recaptcha/" for host in ("google.com", "gstatic.com", "recaptcha.net"))
_GEETEST: Final = ("https://*.geetest.com", "https://*.geevisit.com", "https://*.gsensebot.com")
_YIDUN: Final = ("https://*.126.net", "https://*.127.net", "https://*.dun.163.com", "https://*.dun.163yun.com")
_TENCENT: Final = ("https://*.captcha.qcloud.com", "https://*.captcha.gtimg.com", "https://captcha.gtimg.com")
_ALIYUN: Final = ("https://*.alicdn.com", "https://*.aliyuncs.com")
# By captcha kind; each of them can be shown. Turnstile's, hCaptcha's and reCAPTCHA's pages name theirs; those of the
# others are the hosts that their scripts are known to ask.
CAPTCHA_KINDS: Final[Mapping[str, Sources]] = MappingProxyType(
    {
        # It works in workers made from blobs; its style sheet comes in by the page's nonce.
        "altcha": Sources(worker=("blob:",)),
        "slider": Sources(),  # it draws into a canvas, and its style sheet is made by script
        "turnstile": Sources(frame=("https://challenges.cloudflare.com",)),
        "hcaptcha": Sources(script=_HCAPTCHA, style=_HCAPTCHA, connect=_HCAPTCHA, frame=_HCAPTCHA),
        "recaptcha": Sources(
            script=_RECAPTCHA, connect=_RECAPTCHA, frame=(*_RECAPTCHA, "https://recaptcha.google.com/recaptcha/")
        ),
        "geetest": Sources(
            script=_GEETEST, style=_GEETEST, connect=_GEETEST, img=_GEETEST, media=_GEETEST, font=_GEETEST
        ),
        "yidun": Sources(script=_YIDUN, style=_YIDUN, connect=_YIDUN, img=_YIDUN, media=_YIDUN),
        "tencent": Sources(
            script=_TENCENT, style=_TENCENT, connect=_TENCENT, frame=_TENCENT, img=_TENCENT, media=_TENCENT
        ),
        "aliyun": Sources(script=_ALIYUN, style=_ALIYUN, connect=_ALIYUN, img=(*_ALIYUN, "data:"), media=_ALIYUN),
    }
)


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
    captchas: Sequence[Captcha],
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

    `captchas` in the order in which they are shown: the next one where the one before cannot be had. Without
    `captcha_always` they are shown once the API demands one. `example` is a telephone number to show.
    With `resume` the status is 403: it stands in place of the answer to a form that had no proof. `nonce` is fresh
    and unguessable per page, base64url; it lets the captcha widget's own style sheet in.
    """
    spoken = speak(locale)
    text = {name: with_number(sentence, example) for name, sentence in texts(spoken).items()}
    config = {
        "prefix": prefix,
        "language": spoken,
        "codeLength": code_length,
        "to": to.strip(),
        "captchas": [{"name": one.name, "kind": one.kind, **one.keys} for one in captchas],
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
        widget=_WIDGET.substitute(prefix=html.escape(prefix))
        if [one.kind for one in captchas[:1]] == ["altcha"]
        else "",
        config=_json_for_html(config),
    )
    return Page(
        body.encode(),
        "text/html; charset=utf-8",
        page_fields(spoken, _content_security_policy(captchas, resume, nonce)),
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


def widget_texts(locale: str) -> dict[str, Any]:
    """What the slider's widget says, and in which language: it is on other people's pages, too."""
    spoken = speak(locale)
    own = {name.removeprefix("slider_"): text for name, text in texts(spoken).items() if name.startswith("slider_")}
    return {"language": spoken, "direction": direction(spoken), "text": own}


def _content_security_policy(captchas: Sequence[Captcha], resume: Resume | None, nonce: str) -> str:
    """The least that the page and its captchas' widgets run with."""
    directives = {"script": ["'self'"], "style": ["'self'"], "connect": ["'self'"]}
    for captcha in captchas:
        if captcha.kind == "altcha":
            directives["style"].append(f"'nonce-{nonce}'")
        if script := captcha.keys.get("script"):
            directives["script"].append(_origin(script))
        for name, sources in CAPTCHA_KINDS[captcha.kind]._asdict().items():
            directives.setdefault(name, []).extend(sources)
    # The page's own forms never leave by themselves. The one that it sends on may: its answer is often a redirect to
    # another origin, which browsers hold against form-action too, after upstream has done the work.
    policy = ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"]
    policy += ["form-action 'none'"] if resume is None else []
    policy += [f"{name}-src {' '.join(dict.fromkeys(sources))}" for name, sources in directives.items() if sources]
    return "; ".join(policy)


def _origin(url: str) -> str:
    """Scheme and host of an address, which the configuration has checked, as a policy writes them."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


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
