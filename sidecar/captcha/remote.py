"""How is a vendor asked about a captcha token? A kind's `request`, `outbound.call`, the kind's `read`.

All of it within the table's `timeout`. A vendor that does not answer as documented is a `provider_error`, never an
exception and never a pass. A lost answer is asked for again only where the kind says that this is safe. A vendor that
does not answer again and again is not asked for a while: its breaker is open, which this process has for itself.

What a vendor does with a token may be the token's own doing: whoever finds one that it answers by a 5xx must not take
the captcha away from others by it, nor get in where `on_failure` lets in. So it is away for all only when it cannot be
reached, or has not judged the tokens of several sites and nobody's in between.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from sidecar import breaker, outbound
from sidecar.breaker import Breaker
from sidecar.captcha.seam import AWAY, Verdict
from sidecar.client_key import client_key
from sidecar.events import CaptchaBreakerMoved, Tell

# Less than this is no time to connect and be answered in.
_WORTH_ASKING_S: Final = 0.05
# So many calls in a row without an answer open the breaker (or half of the last 20), for so long.
_FAILURES: Final = 5
_OPEN_MS: Final = 10_000
# From so many sites must tokens come that it has not judged, or it is their fault and not its.
_SITES: Final = 3
# Why a token was not judged, where the vendor said nothing: whoever asks next would wait for as long.
_NEVER_SENT: Final = "never_sent"
_NO_ANSWER: Final = "no_answer"
_SILENCE: Final = frozenset({_NEVER_SENT, _NO_ANSWER})


class RemoteKind(Protocol):
    """A kind's module, as `Remote` uses it. Its functions take the module's own `Settings`."""

    @property
    def MAX_TOKEN(self) -> int:  # noqa: N802 - a module's constant
        """Longest token that the vendor gives out, in characters; a longer one is refused unasked."""
        ...

    @property
    def LIFE_S(self) -> float:  # noqa: N802 - a module's constant
        """Seconds for which the vendor takes a token at most."""
        ...

    @property
    def ASK_AGAIN(self) -> bool:  # noqa: N802 - a module's constant
        """True when the same request may be sent twice and is judged once."""
        ...

    @property
    def identify(self) -> Callable[[Any, str], str | Verdict]: ...

    @property
    def request(self) -> Callable[[Any, str, str, float, str], outbound.HttpRequest]: ...

    @property
    def read(self) -> Callable[[Any, outbound.HttpReply], Verdict]: ...


class Remote:
    """One [captcha.NAME] table of a kind over HTTP.

    `now` gives seconds since the epoch; `nonce` gives 32 hex digits, fresh and unguessable at every call.
    """

    def __init__(
        self,
        name: str,
        kind: RemoteKind,
        settings: Any,
        session: outbound.Session,
        now: Callable[[], float],
        nonce: Callable[[], str],
        tell: Tell,
    ) -> None:
        self._name = name
        self._kind = kind
        self._settings = settings
        self._session = session
        self._now = now
        self._nonce = nonce
        self._tell = tell
        self._breaker = Breaker()
        self._is_unreachable = False
        # The sites whose tokens it has not judged since it judged one, no more of them than open the breaker.
        self._unjudged: set[str] = set()
        self.life_s = kind.LIFE_S

    @property
    def is_away(self) -> bool:
        """True while the breaker is open, or its one probe is under way."""
        return self._breaker.state != "closed" and not self._breaker.may_be_probed(_now_ms())

    @property
    def is_away_for_all(self) -> bool:
        """True when it could not be reached, or has not judged the tokens of several sites."""
        return self._is_unreachable or len(self._unjudged) >= _SITES

    def look(self, token: str) -> str | Verdict:
        """Say what a token is known by; or what is wrong with it, so that no vendor is asked."""
        if not token:
            return Verdict("reject", "empty")
        if len(token) > self._kind.MAX_TOKEN:
            return Verdict("reject", "too_long")
        return self._kind.identify(self._settings, token)

    async def verify(self, token: str, client_ip: str) -> Verdict:
        """Ask the vendor about a token, once as far as the vendor is concerned; or nobody while it is away."""
        if self._breaker.state != "closed":
            probing = breaker.probe(self._breaker, int(self._settings.timeout * 1000), _now_ms())
            if probing is None:
                return AWAY
            self._move(probing)
        generation, timeout_s = self._breaker.generation, self._settings.timeout
        request = self._kind.request(self._settings, token, client_ip, self._now(), self._nonce())
        clock = self._session.loop.time
        deadline = clock() + timeout_s
        try:
            try:
                reply = await outbound.call(self._session, request, timeout_s)
            except outbound.NoAnswerError:
                # Mostly a pooled connection that the vendor closed just then; a time-out leaves nothing to try with.
                if not self._kind.ASK_AGAIN or deadline - clock() < _WORTH_ASKING_S:
                    raise
                reply = await outbound.call(self._session, request, deadline - clock())
        except outbound.NeverSentError:
            return self._counted(Verdict("provider_error", _NEVER_SENT), generation, client_ip, is_answer=False)
        except outbound.NoAnswerError:
            return self._counted(Verdict("provider_error", _NO_ANSWER), generation, client_ip, is_answer=False)
        verdict = self._kind.read(self._settings, reply)
        return self._counted(verdict, generation, client_ip, is_answer=reply.status < 500)

    def _counted(self, verdict: Verdict, generation: int, client_ip: str, *, is_answer: bool) -> Verdict:
        """Have the breaker know of a verdict. `is_answer`: the vendor answered, be it a refusal; a 5xx is none."""
        is_news = self._is_news(verdict, client_ip)
        if is_answer and self._breaker.is_spotless:
            return verdict  # nothing to count: one more good answer changes nothing
        if is_news or self._breaker.state != "closed":
            now_ms = _now_ms()
            self._move(
                breaker.record(
                    self._breaker, generation, fine=is_answer, failures=_FAILURES, open_for_ms=_OPEN_MS, now_ms=now_ms
                )
            )
        return verdict

    def _is_news(self, verdict: Verdict, client_ip: str) -> bool:
        """Remember whose tokens are not judged; false for one more 5xx or the like of a site that has brought one."""
        self._is_unreachable = verdict.reason == _NEVER_SENT
        if verdict.outcome != "provider_error":
            self._unjudged.clear()
            return True
        site = client_key("ip_prefix", client_ip)
        is_known = site in self._unjudged
        if len(self._unjudged) < _FAILURES:
            self._unjudged.add(site)
        return not is_known or verdict.reason in _SILENCE

    def _move(self, moved: Breaker) -> None:
        was, self._breaker = self._breaker.state, moved
        if moved.state != was:
            self._tell(CaptchaBreakerMoved(captcha=self._name, state=moved.state, was=was))


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)
