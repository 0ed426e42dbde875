"""How does an answer of ours read to a person? A page with one sentence in their language, and what to do next.

The law: no script at all, and nothing of the request is on the page but escaped. A form that was refused may be on it,
to be sent again with one field corrected: to the page's own address, so that nothing in it can name another one.
"""

import html
from dataclasses import dataclass
from string import Template
from typing import Final, Literal

from sidecar.errors import Refusal
from sidecar.pages import pages
from sidecar.pages.pages import Page, Resume

# Reasons that have a sentence of their own; every other refusal has its code's.
_BY_REASON: Final = {
    "email_unreadable": "error_invalid_email",
    "failures": "error_too_many_tries",
    "multipart": "error_multipart",
    "no_challenge": "error_not_here",
    "no_such_endpoint": "error_not_here",
    "no_such_file": "error_not_here",
}
# channel -> the label of a recipient's field, the sentence for an empty one, its type, inputmode and autocomplete.
_RECIPIENT: Final = {
    "sms": ("number_label", "number_missing", "tel", "tel", "tel"),
    "email": ("email_label", "email_missing", "text", "email", "email"),
    "auto": ("address_label", "address_missing", "text", "text", "on"),
}
_LONGEST: Final = 254  # an e-mail address


@dataclass(frozen=True, slots=True)
class Mend:
    """A refused form that the person may send again.

    `field` is the name of the one that is wrong, "" for none; `what` says whether it is the recipient or the code, and
    `value` is what it held.
    """

    resume: Resume
    field: str = ""
    what: Literal["to", "code"] = "to"
    value: str = ""
    channel: str = "sms"

    def __repr__(self) -> str:  # all of it is what a person typed
        return f"Mend({self.resume!r}, {self.what})"


def refusal_page(
    refusal: Refusal,
    *,
    prefix: str,
    brand: str,
    locale: str,
    request_id: str,
    example: str = "",
    mend: Mend | None = None,
    channel: str = "sms",
    is_other_site: bool = False,
    may_go_back: bool = False,
) -> Page:
    """Make the page of a refusal. `locale` is what `language.read` makes.

    `example` is a number to show. `is_other_site`: the form would have waited on a page of ours, but another site
    sent it; 403 whatever the refusal. `may_go_back`: it came from a page with something to fill in.
    """
    spoken = pages.speak(locale)
    text = pages.texts(spoken)
    key = _BY_REASON.get(refusal.reason, f"error_{refusal.code}")
    if refusal.reason == "no_recipient":
        key = _RECIPIENT[channel][1]
    if is_other_site:
        key = "error_other_site"
    left = refusal.extra.get("attempts_left")
    if left == 0 and not is_other_site:
        key, left = "error_too_many_attempts", None  # the last try killed the code
    sentences = [text[key]]
    if left is not None and not is_other_site:
        sentences.append(text["attempts_left"].replace("{left}", str(left)))
    rest = []
    if refusal.retry_after_s is not None and not is_other_site:
        wait = text["wait"].replace("{time}", clock(refusal.retry_after_s))
        rest.append(f'  <p class="wait">{html.escape(wait)}</p>')
    if is_other_site:
        rest.append(f'  <p class="next"><a class="primary" href="/">{html.escape(text["open_site"])}</a></p>')
    elif mend is not None:
        rest.append(_form(mend, text, example))
    elif may_go_back:
        rest.append(f'  <p class="next">{html.escape(text["go_back"])}</p>')
    status = 403 if is_other_site else refusal.status
    rest.append(_details(refusal, status, request_id, text["details"]))
    return _page(
        status,
        text["title_refused"],
        html.escape(" ".join(sentences)),
        "\n".join(rest),
        prefix=prefix,
        brand=brand,
        spoken=spoken,
        has_form=mend is not None,
    )


def sent_page(to: str, *, prefix: str, brand: str, locale: str) -> Page:
    """Make the page of a message that is queued; `to` is masked."""
    spoken = pages.speak(locale)
    text = pages.texts(spoken)
    before, after = text["sent_page"].split("{to}")
    number = f'<bdi class="inline-number" dir="ltr">{html.escape(to)}</bdi>'
    sentence = html.escape(before) + number + html.escape(after)
    return _page(202, text["title_sent"], sentence, "", prefix=prefix, brand=brand, spoken=spoken)


def clock(seconds: float) -> str:
    """Write a time to wait as people read it: 0:47, 1:02:03."""
    minutes, second = divmod(max(1, -int(-seconds // 1)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


_FIELD: Final = Template("""\
    <label class="label" for="right">$label</label>
    <input id="right" name="$name" value="$value" type="$type" inputmode="$inputmode" autocomplete="$autocomplete"
           $dir maxlength="$longest" spellcheck="false" autocapitalize="off" aria-invalid="true"
           aria-describedby="$described" autofocus$classes>$hint""")
_HINT: Final = '\n    <p class="hint" id="hint">{}</p>'


def _form(mend: Mend, text: pages.Texts, example: str) -> str:
    """Write the form: what is right as it was, hidden, and what is wrong to be corrected. No action: it is this page's.

    The fields keep their order but for the corrected one, which comes last.
    """
    lines = [f'  <form method="{"post" if mend.resume.method == "POST" else "get"}">']
    lines += [
        f'    <input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in mend.resume.fields
        if name != mend.field or not mend.field
    ]
    if mend.field:
        label, _, kind, inputmode, autocomplete = _RECIPIENT[mend.channel]
        is_code = mend.what == "code"
        hint = "" if is_code or mend.channel != "sms" else pages.with_number(text["number_hint"], example)
        lines.append(
            _FIELD.substitute(
                label=html.escape(text["code_label" if is_code else label]),
                name=html.escape(mend.field),
                # A wrong code is typed anew; a wrong number mostly needs one digit.
                value="" if is_code else html.escape(mend.value.strip()[:_LONGEST]),
                type="text" if is_code else kind,
                inputmode="numeric" if is_code else inputmode,
                autocomplete="one-time-code" if is_code else autocomplete,
                dir='dir="ltr"',
                longest=_LONGEST,
                classes=' class="code"' if is_code else "",
                described="told hint" if hint else "told",
                hint=_HINT.format(html.escape(hint)) if hint else "",
            )
        )
    go_on = html.escape(text["go_on" if mend.field else "try_again"])
    lines += [f'    <button class="primary" type="submit">{go_on}</button>', "  </form>"]
    return "\n".join(lines)


def _details(refusal: Refusal, status: int, request_id: str, label: str) -> str:
    """Write what those need to know whom the person asks for help."""
    known = " · ".join(filter(None, (refusal.code, str(status), request_id)))
    detail = f"<br>{html.escape(refusal.detail)}"
    return (
        f'  <details><summary>{html.escape(label)}</summary><p lang="en" dir="ltr">{html.escape(known)}{detail}</p>'
        "</details>"
    )


def _page(
    status: int,
    title: str,
    sentence: str,
    rest: str,
    *,
    prefix: str,
    brand: str,
    spoken: str,
    has_form: bool = False,
) -> Page:
    body = pages.template("told.html").substitute(
        language=spoken,
        direction=pages.direction(spoken),
        title=html.escape(title),
        prefix=html.escape(prefix),
        mark=pages.mark(),
        brand=pages.brand_line(brand),
        sentence=sentence,
        rest=rest,
    )
    # A form that goes on may end anywhere: its answer is often a redirect, which form-action would be held against.
    policy = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    return Page(
        body.encode("utf-8", "replace"),
        "text/html; charset=utf-8",
        pages.page_fields(spoken, policy if has_form else f"{policy}; form-action 'none'"),
        status,
    )
