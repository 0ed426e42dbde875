"""Which kinds of captcha and provider are there? What `config.load` is handed of them; imported when asked for."""

from sidecar import asn, captcha
from sidecar.config.load import Kinds
from sidecar.delivery import providers, text
from sidecar.on_demand import OnDemand


def kinds(*, reads_networks: bool = True) -> Kinds:
    """Every captcha and provider kind that there is a file of, and the messages, for `config.load`.

    `reads_networks`: each `asn_file` is read, which takes seconds; a command that refuses nobody need not wait for it.
    """
    captchas, vendors = captcha.kinds(), providers.kinds()
    return Kinds(
        captcha=OnDemand(captchas, lambda kind: captchas[kind].Settings),
        providers=OnDemand(vendors, lambda kind: vendors[kind].Settings),
        channels=lambda kind: vendors[kind].CHANNELS,
        messages=text.longest,
        networks=asn.load if reads_networks else lambda _: None,
    )
