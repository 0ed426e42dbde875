"""Who is let in? The steps of an admission, taken one after the other: lists, captcha, number policy, limits, sends.

`admission` plans them; here they are taken, and what was spent for nothing is given back. The first `Refusal` ends it,
but on a route that only observes, where it is noted. A person is proven only where a verifier says so.
"""

import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from sidecar.admission import Admission, Solve, Spend
from sidecar.captcha.seam import AWAY, InSteps, Verdict, Verifier, is_built_in
from sidecar.config.model import Config, Route
from sidecar.errors import Refusal, StoreError
from sidecar.events import CaptchaBroken, CaptchaJudged, DecidedAlone, StoreRefused, Tell
from sidecar.limits.buckets import Bucket, Buckets, Ruling
from sidecar.limits.pumping import Sending
from sidecar.limits.sends import SendRuling, Sends
from sidecar.recipient import Recipient
from sidecar.store.client import ReplyError
from sidecar.visit import Visit


@dataclass(slots=True)
class Admitted:
    """What it took to be let in: the tickets of what was spent, and the seconds until another would be allowed.

    `solved`: a person was really proven, and not let in because the verifier is away.
    """

    solved: bool = False
    tickets: tuple[str, ...] = ()
    again_in_s: int = 0
    send_ticket: str = ""  # of what `[pumping]` and `[budget]` have counted
    to_give_back: tuple[str, ...] = ()  # what the captcha's step spent and the last step gives back
    is_past_captcha: bool = False  # one was demanded and solved, so that no limit demands another


class Admitting:
    """The taking of steps of one configuration."""

    def __init__(
        self,
        *,
        config: Config,
        admission: Admission,
        buckets: Buckets,
        sends: Sends | None,
        captchas: Mapping[str, Verifier],
        tell: Tell,
    ) -> None:
        self._config = config
        self._admission = admission
        self._buckets = buckets
        self._sends = sends
        self._captchas = captchas
        self._tell = tell
        self._may_be_local = config.store.on_failure == "local"

    async def admit(
        self, visit: Visit, route: Route, recipient: Recipient | None, token: str | None, *, is_guess: bool = False
    ) -> Admitted:
        """Take the steps that let a request in. `is_guess`: it shows a code. Raises Refusal, StoreError."""
        solve, checked, spend = self._admission.plan(visit, route, recipient, token, is_guess=is_guess)
        admitted = Admitted()
        try:
            self._admission.screen(visit, recipient)
        except Refusal as refusal:
            self.observe(visit, route, refusal)
        if solve is not None:
            try:
                await self._solve(visit, route, solve, admitted)
            except (Refusal, StoreError) as error:
                await self._end(visit, route, error, admitted)
        if checked is not None:
            try:
                self._admission.check(checked)
            except Refusal as refusal:
                await self._end(visit, route, refusal, admitted)
        if spend is not None:
            try:
                ruling = await self._spend(visit, spend, admitted)
                if ruling.demanded and not ruling.refused and spend.solve is not None:
                    visit.log["captcha_demanded_by"] = list(ruling.demanded)
                    await self.step_up(visit, route, spend.solve, admitted)
                    ruling = await self._spend(visit, spend, admitted)
                if not ruling.allowed:
                    raise limited(ruling)
                admitted.tickets, admitted.again_in_s = ruling.tickets, math.ceil(ruling.again_in_s)
            except (Refusal, StoreError) as error:
                await self._end(visit, route, error, admitted)
        return admitted

    async def _end(self, visit: Visit, route: Route, error: Refusal | StoreError, admitted: Admitted) -> None:
        """End an admission with a refusal, and give back what it spent; one of a route that observes goes on."""
        if route.mode != "observe":
            await self.give_back(admitted)
        self.observe(visit, route, error)

    async def _spend(self, visit: Visit, step: Spend, admitted: Admitted) -> Ruling:
        may_be_demanded = step.solve is not None and not admitted.is_past_captcha
        judging = None
        if step.sending is not None and not may_be_demanded:
            # Asked before the limits are, so that both travel together.
            judging = self._judge(visit, step.sending)
        back, admitted.to_give_back = admitted.to_give_back, ()
        try:
            ruling = await self._buckets.spend(
                step.buckets,
                looking_at=step.looked,
                giving_back=back,
                is_solved=not may_be_demanded,
                may_decide_alone=self._may_decide_alone(visit),
            )
        except StoreError:
            if judging is not None:
                with suppress(StoreError):  # another node of a cluster may be away
                    await self.give_back_send((await judging).ticket)
            raise
        if ruling.is_alone:
            self._tell(DecidedAlone())
        if ruling.observed:
            visit.log["observed_limits"] = list(ruling.observed)
        if step.sending is not None and may_be_demanded and ruling.allowed:
            # Not before: a flood that solves nothing would fill what the neighbours of a number share, if only for the
            # turn until it is given back.
            judging = self._judge(visit, step.sending)
        if judging is not None:
            try:
                judged = await judging
            except StoreError:
                admitted.to_give_back = ruling.tickets
                raise
            await self._rule(visit, judged, ruling, admitted)
        return ruling

    async def step_up(self, visit: Visit, route: Route, solve: Solve, admitted: Admitted) -> None:
        """Have a captcha solved that is demanded now; a route that observes notes that it was not, and goes on."""
        try:
            await self._solve(visit, route, solve, admitted)
        except (Refusal, StoreError) as error:
            self.observe(visit, route, error)
        admitted.is_past_captcha = True

    async def give_back(self, admitted: Admitted) -> None:
        """Give back what the captcha's step spent, where no later step does. Never raises for the store."""
        back, admitted.to_give_back = admitted.to_give_back, ()
        if back:
            with suppress(StoreError):
                await self._buckets.refund(back)

    def _judge(self, visit: Visit, sending: Sending) -> Awaitable[SendRuling]:
        assert self._sends is not None  # it has made the `sending`
        return self._sends.judge(sending, to=visit.log["to"], client=visit.client.ip, request_id=visit.request_id)

    async def _rule(self, visit: Visit, judged: SendRuling, ruling: Ruling, admitted: Admitted) -> None:
        """Heed what `[pumping]` and `[budget]` say of a send, once the limits have spoken. Raises Refusal."""
        if not ruling.allowed:
            await self.give_back_send(judged.ticket)
            return
        judged.tell()
        if judged.refusal is not None:
            admitted.to_give_back = ruling.tickets
            raise judged.refusal
        for reason in judged.reasons:
            visit.log.setdefault("observed", []).append({"code": "rate_limited", "reason": reason})
        admitted.send_ticket = judged.ticket

    async def give_back_send(self, ticket: str) -> None:
        """Undo that a send was counted, where it was."""
        if ticket and self._sends is not None:
            with suppress(StoreError):
                await self._sends.give_back(ticket)

    def _solve(self, visit: Visit, route: Route, step: Solve, admitted: Admitted) -> Coroutine[Any, Any, None]:
        """Give the coroutine that has a token judged, by one captcha or several. Raises Refusal(captcha_required)."""
        if not step.token:
            raise no_token(self.offered(route))
        if step.others:
            return self._ask_verifiers(visit, route, step, admitted)
        return self._ask_verifier(visit, route, step, admitted)

    async def _ask_verifiers(self, visit: Visit, route: Route, step: Solve, admitted: Admitted) -> None:
        """Ask a verifier about a token; where it judges none, and the token names none, the next one.

        Of the next ones only a yes counts: what else they say of a token that may not be theirs is no judgement.
        """
        first: Refusal | None = None
        for one in self._may_be_of(step):
            if first is not None:
                await self.give_back(admitted)
            try:
                await self._ask_verifier(visit, route, one, admitted)
            except Refusal as refusal:
                first = first or refusal
                if refusal.code != "captcha_unavailable":
                    break
            else:
                return
        assert first is not None  # a token may be of one captcha at least
        raise first

    def _may_be_of(self, step: Solve) -> Sequence[Solve]:
        """By which captchas a token is judged: a built-in one knows its own, and is shown no vendor's."""
        built_in = {one.captcha for one in (step, *step.others) if is_built_in(self._captchas[one.captcha])}
        for one in (step, *step.others):
            if one.captcha in built_in and isinstance(self._captchas[one.captcha].look(one.token or ""), str):
                return (one,)
        if step.captcha in built_in:
            return (step,)
        return (step, *(one for one in step.others if one.captcha not in built_in))

    async def _ask_verifier(self, visit: Visit, route: Route, step: Solve, admitted: Admitted) -> None:
        """Have one verifier judge a token, counted as a wrong one until it is not, and heed the verdict."""
        assert step.token is not None
        verifier = self._captchas[step.captcha]
        if verifier.is_away:
            self._heed(route, step, AWAY, (), admitted)
            return
        token_id = verifier.look(step.token)
        if isinstance(token_id, Verdict):
            verdict, tickets = token_id, await self._spend_on_captcha(visit, step, ())
        # Counted beforehand, so that a hundred wrong ones at once are not more than one after another; and claimed in
        # the same turn, so that of a hundred with one token one is judged.
        elif tickets := await self._spend_on_captcha(visit, step, (self._admission.claim(step.captcha, token_id),)):
            verdict = await verifier.verify(step.token, visit.client.ip)
        else:
            verdict, tickets = Verdict("spent", "used"), await self._spend_on_captcha(visit, step, ())
        self._heed(route, step, verdict, tickets, admitted)

    def _heed(self, route: Route, step: Solve, verdict: Verdict, tickets: tuple[str, ...], admitted: Admitted) -> None:
        """Let in, or raise Refusal. A person is proven only where the verdict says so, not where `on_failure` lets in.

        `tickets` are of what was spent on the token, a claim's last.
        """
        self._tell(CaptchaJudged(captcha=step.captcha, outcome=verdict.outcome))
        match verdict.outcome:
            case "pass":
                admitted.solved, admitted.to_give_back = True, tickets[:1]
            case "let_in":
                pass  # and it stays counted as a wrong one
            case "reject" | "spent" | "policy":
                raise _not_solved(verdict)
            case "unproven":
                raise self._unavailable(route, step, verdict)
            case "provider_error" if self._lets_in(step.captcha):
                self._tell_broken(step, verdict)
                admitted.to_give_back = tickets[:1]
            case _:
                self._tell_broken(step, verdict)
                # Nobody judged the token: it may be shown again. A vendor that answers, and says that we ask wrongly,
                # may have been made to by the token, so that stays counted.
                admitted.to_give_back = tickets[1:] if verdict.outcome == "config" else tickets
                raise self._unavailable(route, step, verdict)

    def _lets_in(self, captcha: str) -> bool:
        """True where whoever comes while nobody's token is judged gets in: not by a token that is at fault itself."""
        return self._config.captcha[captcha].on_failure == "allow" and self._captchas[captcha].is_away_for_all

    async def step(self, visit: Visit, captcha: str, shown: Mapping[str, Any]) -> dict[str, Any]:
        """Take one step of solving a built-in captcha: gives what its widget is told. Each may be tried once.

        A wrong one counts as a wrong token does. Raises Refusal(captcha_failed, captcha_unavailable, rate_limited),
        StoreError.
        """
        verifier = cast("InSteps", self._captchas[captcha])
        counting = self._admission.counting(visit, captcha)
        step = verifier.step(shown, visit.client.ip)
        if isinstance(step, Verdict):
            await self._spend_on_captcha(visit, counting, ())
            raise _not_solved(step)
        tickets = await self._spend_on_captcha(visit, counting, (self._admission.claim(captcha, step.id),))
        if not tickets:
            await self._spend_on_captcha(visit, counting, ())
            raise _not_solved(Verdict("spent", "used"))
        told = await step.judge()
        if isinstance(told, Verdict) and told.outcome != "provider_error":
            raise _not_solved(told)
        with suppress(StoreError):
            await self._buckets.refund(tickets if isinstance(told, Verdict) else tickets[:1])
        if isinstance(told, Verdict):
            raise Refusal("captcha_unavailable", told.reason, "Try again in a moment.", retry_after_s=1)
        return told

    async def _spend_on_captcha(self, visit: Visit, step: Solve, claims: tuple[Bucket, ...]) -> tuple[str, ...]:
        """Count a token as a wrong one, and claim it where there is one to claim: gives the tickets, in this order.

        Gives none where it is claimed already, and counts nothing then. Raises Refusal(rate_limited).
        """
        ruling = await self._buckets.spend(
            (step.failures, *claims), looking_at=step.who, may_decide_alone=self._may_decide_alone(visit)
        )
        if ruling.allowed:
            return ruling.tickets
        claimed = {claim.meter.name for claim in claims}
        if ruling.refused[0].name in claimed:
            return ()
        raise limited(replace(ruling, refused=tuple(one for one in ruling.refused if one.name not in claimed)))

    def _may_decide_alone(self, visit: Visit) -> bool:
        """True where this process's own buckets may decide while the store is away; never of a message or a proof."""
        return self._may_be_local and visit.route is not None and visit.route.action == "guard"

    def _tell_broken(self, step: Solve, verdict: Verdict) -> None:
        if verdict is not AWAY:  # the breaker has told it for all
            self._tell(CaptchaBroken(captcha=step.captcha, outcome=verdict.outcome, reason=verdict.reason))

    def _unavailable(self, route: Route, step: Solve, verdict: Verdict) -> Refusal:
        """The refusal where nobody judges a token. It names the captchas that may be judged instead."""
        others = tuple(name for name in self.offered(route) if name != step.captcha)
        return Refusal(
            "captcha_unavailable",
            verdict.reason,
            "Solve another captcha." if others else "Try again in a moment.",
            retry_after_s=5,
            extra={"captchas": others or (step.captcha,)},
        )

    def offered(self, route: Route) -> tuple[str, ...]:
        """The captchas of a route that may be judged now, in their order; all of them where none may be."""
        if len(route.captcha) == 1:
            return route.captcha
        return tuple([name for name in route.captcha if not self._captchas[name].is_away]) or route.captcha

    async def count(
        self,
        begin: Callable[[Coroutine[Any, Any, Any]], None],
        visit: Visit,
        admitted: Admitted,
        after: int | None,
        recipient: Recipient,
        is_right: bool,
    ) -> Callable[[], None]:
        """Count a try at a code beforehand if it is wrong, whatever limits the route names; gives what takes it back.

        Counted beforehand, so that a hundred at once are not more than one after another; a right one costs nothing,
        and neither does one that was not judged after all (another request holds the code, or it is dead).
        Raises Refusal(too_many_attempts), and Refusal(captcha_required) after `after` wrong codes of the recipient
        unless one was solved: for right and wrong codes alike, or the demand would tell one from the other.
        """
        after = None if admitted.is_past_captcha else after
        buckets = tuple(self._admission.of_wrong_codes(visit, recipient, after))
        back, admitted.to_give_back = admitted.to_give_back, ()
        spent, looked = ((), buckets) if is_right else (buckets, ())
        ruling = await self._buckets.spend(spent, looking_at=looked, giving_back=back)
        if ruling.refused:
            raise guessed_too_much(ruling)
        if ruling.demanded:
            visit.log["captcha_demanded_by"] = list(ruling.demanded)
            raise no_token(())
        # Nobody waits for it: how long an answer takes must not tell wrong codes from right ones.
        return lambda: begin(self._buckets.refund(ruling.tickets))

    def observe(self, visit: Visit, route: Route, error: Refusal | StoreError) -> None:
        """On a route that observes, note a refusal, and let the story go on; on any other, raise it."""
        if route.mode != "observe":
            raise error
        refusal = as_refusal(error, self._tell)
        visit.log.setdefault("observed", []).append({"code": refusal.code, "reason": refusal.reason})


def no_token(offered: tuple[str, ...]) -> Refusal:
    return Refusal(
        "captcha_required", "no_token", "Solve the captcha and send its token along.", extra={"captchas": offered}
    )


def _not_solved(verdict: Verdict) -> Refusal:
    return Refusal("captcha_failed", f"{verdict.outcome}: {verdict.reason}", "Solve a new captcha.")


def limited(ruling: Ruling) -> Refusal:
    return Refusal(
        "rate_limited",
        f"limit {ruling.refused[0].name}",
        "Wait before trying again.",
        retry_after_s=ruling.retry_after_s,
        limits=ruling.refused,
    )


def guessed_too_much(ruling: Ruling) -> Refusal:
    first = ruling.refused[0]
    return Refusal(
        "too_many_attempts",
        first.name,
        "Too many wrong codes. Wait before trying again.",
        retry_after_s=ruling.retry_after_s,
        limits=(first,),
    )


def as_refusal(error: Refusal | StoreError, tell: Tell) -> Refusal:
    """Say what a store that does not serve means for who asks."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ReplyError):
        # It answers, and does not do it: strange data, or a server that lacks a command. The store's own log is silent.
        tell(StoreRefused(reason=error.code))
        return Refusal("store_unavailable", f"the store said {error.code}", "Try again later.", retry_after_s=5)
    return Refusal("store_unavailable", str(error), "Try again in a moment.", retry_after_s=1)
