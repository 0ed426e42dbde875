"""Names decide which keys share a shard."""

import re

import pytest

from sidecar.store.names import Names, route

NAMES = Names("sidecar")


def tag(key: str) -> str:
    """What a cluster hashes: the text between the first braces, else the whole key."""
    found = re.search(r"\{([^}]+)\}", key)
    return found[1] if found else key


def test_all_buckets_share_a_shard() -> None:
    """One script decides any buckets together, whatever a limit is called."""
    assert tag(NAMES.bucket("ip", "aa")) == tag(NAMES.bucket("{to}", "bb"))


def test_what_is_known_of_a_recipient_shares_a_shard() -> None:
    """A verification's id and an idempotency hash that begin with the route lie beside the recipient's own keys."""
    recipient = "9f86d081884c7d65"
    keys = [
        NAMES.current(recipient),
        NAMES.verification(route(recipient) + "RANDOM"),
        NAMES.idempotency(route(recipient) + "HASH"),
    ]
    assert len({tag(key) for key in keys}) == 1
    assert len(set(keys)) == len(keys)
    assert tag(NAMES.current("a0ff")) != tag(NAMES.current(recipient))


def test_an_answer_shares_the_shard_of_its_message() -> None:
    """One script writes both; the claim that it is named after lies elsewhere."""
    claim = NAMES.idempotency("9fHASH")
    assert tag(NAMES.answered(claim)) == tag(NAMES.outbox())
    assert NAMES.answered(claim) != NAMES.answered(NAMES.idempotency("a0HASH"))


def test_prefixes_keep_deployments_apart() -> None:
    """No name under one prefix is a name, or has the tag, of another's."""

    def all_of(names: Names) -> set[str]:
        made = {names.bucket("ip", "aa"), names.verification("aa"), names.current("aa"), names.idempotency("aa")}
        return made | {names.outbox(), names.instances()}

    one, other = all_of(NAMES), all_of(Names("other"))
    assert len(one) == 6
    assert not {tag(key) for key in one} & {tag(key) for key in other}


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b"])
def test_a_prefix_has_no_braces(prefix: str) -> None:
    """Braces in it would decide the shard in our place."""
    with pytest.raises(ValueError, match="is no prefix"):
        Names(prefix)
