"""sidecar/delivery/providers/seam.py: what a refusal means for the message, and what the API says of it."""

from typing import get_args

import pytest

from sidecar.delivery.providers.seam import TRY_NEXT, FailureReason, Fault, Rejected, failure_reason


@pytest.mark.parametrize("fault", get_args(Fault))
def test_only_a_limit_of_the_account_and_a_missing_connection_pass_by_themselves(fault: Fault) -> None:
    """Any other refusal passes only where the vendor said so: then the same provider may be asked again."""
    assert Rejected(fault, "x").is_passing == (fault in {"throttled", "unreachable"})
    assert Rejected(fault, "x", deferred=True).is_passing
    assert Rejected(fault, "x").may_try_next == (fault in TRY_NEXT)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ((), "no_provider"),
        (("credentials",), "provider"),
        (("request", "throttled", "balance", "unreachable"), "provider"),
        (("number_unsupported",), "recipient_unsupported"),
        (("number_unsupported", "number_unsupported"), "recipient_unsupported"),
        (("number_unsupported", "credentials"), "provider"),
        (("number_unsupported", "number_blocked"), "recipient_blocked"),
        (("credentials", "number_invalid"), "recipient_invalid"),
        (("throttled", "number_frequency"), "recipient_limited"),
        (("number_frequency", "number_invalid"), "recipient_invalid"),
    ],
)
def test_what_is_said_of_the_number_outweighs_the_troubles_of_others(
    faults: tuple[Fault, ...], reason: FailureReason
) -> None:
    assert failure_reason([Rejected(fault, "x") for fault in faults]) == reason
