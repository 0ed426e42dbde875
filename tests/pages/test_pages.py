"""The hosted page as octets: nothing of the request reaches it unescaped, and it says the same in every language."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import captcha, language
from sidecar.errors import CODES
from sidecar.pages import pages, told
from sidecar.pages.pages import Captcha, Page, Resume

FOLDER = Path(pages.__file__).parent
ENGLISH: dict[str, str] = json.loads((FOLDER / "locales" / "en.json").read_text("utf-8"))
SCRIPT = (FOLDER / "static" / "verify.js").read_text("utf-8")
TEMPLATE = (FOLDER / "verify.html").read_text("utf-8")
ALTCHA = Captcha("altcha", "altcha")
SCRIPT_OF_TURNSTILE = "https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit"
TURNSTILE = Captcha("ts", "turnstile", {"site_key": "0x4AAA", "action": "signup", "script": SCRIPT_OF_TURNSTILE})


def make(*captchas: Captcha, to: str = "", resume: Resume | None = None, locale: str = "en", **more: Any) -> Page:
    ask: dict[str, Any] = {
        "prefix": "/.sidecar",
        "code_length": 6,
        "nonce": "bm9uY2U",
        "example": "+86 131 2345 6789",
        **more,
    }
    return pages.hosted_page(captchas=captchas, to=to, resume=resume, locale=locale, **ask)


class Reader(HTMLParser):
    """The elements of a page and its configuration, as a browser reads them."""

    def __init__(self, page: Page) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._config: list[str] = []
        self._in_config = False
        self.feed(page.body.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_config = dict(attrs).get("id") == "config"

    def handle_endtag(self, tag: str) -> None:
        self._in_config = False

    def handle_data(self, data: str) -> None:
        (self._config if self._in_config else self.text).append(data)

    @property
    def config(self) -> Any:
        return json.loads("".join(self._config))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def policy(page: Page) -> dict[str, list[str]]:
    text = dict(page.fields)["Content-Security-Policy"]
    return {words[0]: words[1:] for words in (part.split() for part in text.split(";"))}


# --- What of the request is in it


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "\u2028\u2029",
    "\"'&<>`",
    "\udc00",
    "${title}",
    "\0",
]


@given(text=st.text(max_size=30) | st.sampled_from(HOSTILE) | st.text(alphabet="</script>!-", max_size=30))
def test_whatever_a_form_holds_comes_out_as_it_went_in_and_adds_no_element(text: str) -> None:
    fields = ((text, "x"), ("submit", text), ("n", "1"), ("n", "2"))
    page = make(to=text, resume=Resume("POST", fields))
    read, plain = Reader(page), Reader(make(resume=Resume("POST")))
    assert read.config["resume"] == {
        "method": "POST",
        "fields": [list(pair) for pair in fields],
        "json": None,
    }
    assert read.config["to"] == text.strip()
    assert read.elements == plain.elements


def test_a_page_and_a_form_show_nothing_of_it_in_a_traceback() -> None:
    resume = Resume("POST", (("password", "hunter2"),))
    assert "hunter2" not in f"{resume!r}{make(resume=resume)!r}"


def test_the_page_can_show_every_kind() -> None:
    """Each has its sources in the policy, and its widget in the script."""
    assert set(captcha.kinds()) == set(pages.CAPTCHA_KINDS)
    script = (FOLDER / "static" / "captcha.js").read_text("utf-8")
    [widgets] = re.findall(r"^const WIDGETS = \{ (.*) \};$", script, re.MULTILINE)
    assert set(widgets.split(", ")) == set(captcha.kinds())
    for kind in captcha.kinds():
        assert Reader(make(Captcha("mine", kind))).config["captchas"] == [{"name": "mine", "kind": kind}]


def test_the_page_knows_its_captchas_in_their_order() -> None:
    assert Reader(make()).config["captchas"] == []
    assert Reader(make(TURNSTILE, ALTCHA)).config["captchas"] == [
        {"name": "ts", "kind": "turnstile", "site_key": "0x4AAA", "action": "signup", "script": SCRIPT_OF_TURNSTILE},
        {"name": "altcha", "kind": "altcha"},
    ]


def test_the_codes_length_is_known_to_script_and_field() -> None:
    read = Reader(make(code_length=8))
    assert read.config["codeLength"] == 8
    [field] = [attributes for attributes in read.all("input") if attributes.get("id") == "code"]
    assert field["pattern"] == "[0-9]{8}"
    assert (field["autocomplete"], field["inputmode"]) == ("one-time-code", "numeric")


# --- What a browser is allowed to do with it


@pytest.mark.parametrize("captchas", [(), (ALTCHA,), (TURNSTILE,), (TURNSTILE, ALTCHA)])
@pytest.mark.parametrize("resume", [None, Resume("POST")])
def test_the_policy_lets_in_our_own_files_and_the_captchas_only(
    captchas: tuple[Captcha, ...], resume: Resume | None
) -> None:
    page = make(*captchas, resume=resume)
    least = {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "connect-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
    if resume is None:
        least["form-action"] = ["'none'"]
    if ALTCHA in captchas:
        least["style-src"] += ["'nonce-bm9uY2U'"]
        least["worker-src"] = ["blob:"]
    if TURNSTILE in captchas:
        least["script-src"] += ["https://challenges.cloudflare.com"]
        least["frame-src"] = ["https://challenges.cloudflare.com"]
    assert policy(page) == least


@pytest.mark.parametrize("kind", captcha.kinds())
def test_no_captcha_lets_in_what_the_page_must_not_run(kind: str) -> None:
    """No inline script or style, no eval, no scheme in place of a host; and the script from where it is configured."""
    directives = policy(make(Captcha("mine", kind, {"script": "https://mirror.example:8443/x/api.js?a=b"})))
    assert directives["script-src"][:2] == ["'self'", "https://mirror.example:8443"]
    assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == ["'none'"]
    for name, sources in directives.items():
        free = {"img-src": {"data:"}, "worker-src": {"blob:"}, "style-src": {"'nonce-bm9uY2U'"}}.get(name, set())
        for source in set(sources) - free - {"'self'", "'none'"}:
            assert re.fullmatch(r"https://(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]+)?(/[a-z]+/)?", source), (
                name,
                source,
            )


@pytest.mark.parametrize("captchas", [(), (ALTCHA,), (TURNSTILE,), (TURNSTILE, ALTCHA)])
def test_nothing_is_inline_and_every_file_is_ours(captchas: tuple[Captcha, ...]) -> None:
    read = Reader(make(*captchas, prefix="/a/b"))
    assert read.config["prefix"] == "/a/b"
    files = {"/a/b/static/verify.css", "/a/b/static/verify.js"}
    if captchas == (ALTCHA,):  # the one that is shown first; another one is loaded when it is needed
        files.add("/a/b/static/altcha.min.js")
    urls = {attributes[name] for _, attributes in read.elements for name in ("src", "href") if name in attributes}
    assert urls == files
    for tag, attributes in read.elements:
        assert tag != "style"
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or "src" in attributes or attributes["type"] == "application/json"


def test_the_widget_finds_the_nonce_of_its_style_sheet() -> None:
    assert {"name": "csp-nonce", "content": "bm9uY2U"} in Reader(make()).all("meta")


def test_the_page_is_not_kept_and_not_guessed_at() -> None:
    page = make()
    fields = dict(page.fields)
    assert page.content_type == "text/html; charset=utf-8"
    assert fields["Cache-Control"] == "no-store"
    assert fields["X-Content-Type-Options"] == "nosniff"
    # With no-referrer the form that goes on would have the Origin "null".
    assert fields["Referrer-Policy"] == "same-origin"


def test_in_a_forms_place_the_page_is_a_refusal() -> None:
    assert make().status == 200
    assert make(resume=Resume("POST")).status == 403


# --- What it says


@pytest.mark.parametrize("language", pages.languages())
def test_every_language_has_every_text_with_the_same_places(language: str) -> None:
    text = json.loads((FOLDER / "locales" / f"{language}.json").read_text("utf-8"))
    assert list(text) == list(ENGLISH)
    for key, value in text.items():
        assert value.strip() == value != "", key
        assert sorted(re.findall(r"\{\w+\}", value)) == sorted(re.findall(r"\{\w+\}", ENGLISH[key])), key
        assert not re.search(r"[<>&$]", value), key


@pytest.mark.parametrize("language", [each for each in pages.languages() if each != "en"])
def test_a_language_is_not_english_left_over(language: str) -> None:
    text = json.loads((FOLDER / "locales" / f"{language}.json").read_text("utf-8"))
    same = {key for key in text if text[key] == ENGLISH[key]}
    assert same <= {"code_label"}


def test_the_languages() -> None:
    assert pages.languages()[0] == "en"
    assert set(pages.languages()) == {"en", "zh", "es", "fr", "de", "ja", "pt", "ru", "ar"}


def test_every_refusal_has_a_sentence() -> None:
    """Whatever the code: the person reads something of their own, and never a code alone."""
    texts = {key.removeprefix("error_") for key in ENGLISH if key.startswith("error_")}
    assert set(CODES) | {"network", "unknown"} <= texts


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    quoted = set(re.findall(r'"([a-z_]+)"', SCRIPT))
    said = set(re.findall(r'say\("([a-z_]+)"', SCRIPT))
    in_template = set(re.findall(r"\$([a-z_]+)", TEMPLATE))
    chosen = {"intro", "intro_form"} | {key for key in ENGLISH if re.match("error_|status_|reason_", key)}
    chosen |= set(re.findall(r'"([a-z_]+)"', Path(told.__file__).read_text("utf-8")))
    widget = (FOLDER / "static" / "slider.js").read_text("utf-8")
    of_widget = {
        f"slider_{key}" for key in re.findall(r'(?:(?:say|reset|load)\((?:why \|\| )?"|= text\.)([a-z_]+)', widget)
    }
    assert of_widget <= set(ENGLISH)
    chosen |= of_widget
    assert said <= set(ENGLISH)
    assert set(ENGLISH) <= quoted | in_template | chosen
    for status in ("queued", "sent", "unconfirmed", "delivered", "failed", "expired"):
        assert f"status_{status}" in ENGLISH


@pytest.mark.parametrize(
    ("field", "spoken"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT", "de"),
        ("zh-Hant-TW", "zh"),
        ("PT-br", "pt"),
        ("nl, fr;q=0.5, de;q=0.9", "de"),
        ("fr;q=0.5,es;q=0.5", "fr"),
        ("de;q=0, fr;q=0.1", "fr"),
        ("de;q=0", "en"),
        ("*", "en"),
        ("xx,yy", "en"),
        ("ru;q=1.0", "ru"),
        ("ja;q=0.8;x=1, ar;q=0.2", "ar"),
        (",".join(["xx"] * 20 + ["de"]), "en"),
    ],
)
def test_the_browsers_preference_decides(field: str, spoken: str) -> None:
    page = make(locale=language.read(field))
    assert dict(page.fields)["Content-Language"] == spoken
    [root] = Reader(page).all("html")
    assert root == {"lang": spoken, "dir": "rtl" if spoken == "ar" else "ltr"}


@given(st.text(max_size=60) | st.text(alphabet="adefqz-;=,. 01*", max_size=60))
def test_any_preference_is_answered(field: str) -> None:
    assert dict(make(locale=language.read(field)).fields)["Content-Language"] in pages.languages()


def test_a_form_is_announced_as_waiting() -> None:
    assert ENGLISH["intro_form"] in " ".join(Reader(make(resume=Resume("POST"))).text)
    assert ENGLISH["intro"] in " ".join(Reader(make()).text)


# --- Who can read it


def test_every_field_has_a_label_and_every_part_that_the_script_names_is_there() -> None:
    read = Reader(make())
    ids = [attributes["id"] for _, attributes in read.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'\$\("([a-z-]+)"\)', SCRIPT)) | set(re.findall(r'getElementById\("([a-z-]+)"\)', SCRIPT))
    assert named <= set(ids)
    labelled = {attributes.get("for") for attributes in read.all("label")}
    assert {attributes["id"] for attributes in read.all("input")} == labelled
    for _, attributes in read.elements:
        for name in (attributes.get("aria-describedby") or "").split():
            assert name in ids


def test_without_javascript_it_says_so() -> None:
    read = Reader(make())
    assert read.all("noscript")
    assert ENGLISH["noscript"] in read.text
    for form in read.all("form"):
        assert "hidden" in form


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_button_is_seen_in_forced_colours() -> None:
    """Its background is taken away there; a border of whatever colour is drawn."""
    style = (FOLDER / "static" / "verify.css").read_text("utf-8")
    assert "border: 1px solid" in style.partition("\n.primary {")[2].partition("}")[0]


def test_both_colour_schemes_have_the_contrast_of_wcag_aa() -> None:
    """1.4.3: 4.5 for text; 1.4.11: 3 for the edge of a field and the ring of focus."""
    css = (FOLDER / "static" / "verify.css").read_text("utf-8")
    schemes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{[^}]*\}", css)
    ]
    assert len(schemes) == 2
    for colour in schemes:
        for text, ground in [
            *((name, "card") for name in ("text", "quiet", "accent", "accent-hover", "wrong", "right")),
            *(("on-accent", "accent"), ("on-accent", "accent-hover"), ("text", "accent-soft")),
        ]:
            assert _contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
        for edge in ("field-line", "focus", "wrong"):
            assert _contrast(colour[edge], colour["card"]) >= 3, edge


# --- Its files


@pytest.mark.parametrize("name", ["client.js", "verify.js", "verify.css", "altcha.min.js"])
def test_a_file_is_given_with_its_type_and_not_again_when_unchanged(name: str) -> None:
    page = pages.static_file(name)
    assert page is not None
    assert page.status == 200
    assert page.body == (FOLDER / "static" / name).read_bytes()
    assert page.content_type == f"text/{'css' if name.endswith('css') else 'javascript'}; charset=utf-8"
    fields = dict(page.fields)
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert fields["Cache-Control"] == "no-cache"
    for seen in (fields["ETag"], f"W/{fields['ETag']}", f'"old", {fields["ETag"]}'):
        again = pages.static_file(name, seen)
        assert again is not None
        assert (again.status, again.body, dict(again.fields)["ETag"]) == (304, b"", fields["ETag"])
    other = pages.static_file(name, '"old"')
    assert other is not None
    assert other.status == 200


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../pages.py", "../verify.html", "altcha.LICENSE.txt", "CLIENT.JS", "client.js/", "/client.js"],
)
def test_no_other_file_is_given(name: str) -> None:
    assert pages.static_file(name) is None


def test_what_the_page_loads_is_given() -> None:
    urls = [
        attributes.get("src") or attributes.get("href")
        for tag in ("script", "link")
        for attributes in Reader(make(ALTCHA)).all(tag)
    ]
    names = [url.removeprefix("/.sidecar/static/") for url in urls if url]
    assert len(names) == 3
    for name in names:
        assert pages.static_file(name) is not None


def test_json_is_handed_to_the_script_as_it_came() -> None:
    """A request that no form can send again."""
    text = '{"phone": "</script>", "n": 1}'
    page = make(resume=Resume("PUT", json=text))
    assert Reader(page).config["resume"] == {"method": "PUT", "fields": [], "json": text}
