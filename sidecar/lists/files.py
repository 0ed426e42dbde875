"""Which autonomous systems' ranges are known now? Each `asn_file`, read in a thread, and again when it changes.

A file that has changed is read once it has kept still from one look to the next, for a copy that is half done may look
whole. One that cannot be read then changes nothing: the ranges that are known stay, and an event says so.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from sidecar import asn
from sidecar.asn import AsnFileError, Stamp
from sidecar.events import AsnFileRead, AsnFileRefused, Tell
from sidecar.ranges import Ranges

_LOOK_EVERY_S: Final = 1.0


class AsnFiles:
    """The files of one configuration. `ranges`: by the file's name, always the newest that could be read."""

    def __init__(self, paths: Iterable[str], tell: Tell) -> None:
        self.ranges: dict[str, Ranges] = {}
        self._paths = tuple(dict.fromkeys(paths))
        self._tell = tell
        # What was read or refused last, and what was seen at the last look; None: there was no file.
        self._settled: dict[str, Stamp | None] = {}
        self._seen: dict[str, Stamp | None] = {}

    def __bool__(self) -> bool:
        return bool(self._paths)

    async def open(self) -> None:
        """Read every file for the first time. Raises ValueError, OSError."""
        for path in self._paths:
            try:
                self._settled[path], self.ranges[path] = await asyncio.to_thread(asn.load, path)
            except AsnFileError as error:
                raise ValueError(f"{path}: {error}") from None
            self._seen[path] = self._settled[path]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for path in self._paths:
                await self._look(path)

    async def _look(self, path: str) -> None:
        try:
            now = await asyncio.to_thread(asn.stamp, path)
        except OSError:
            now = None
        before, self._seen[path] = self._seen[path], now
        if now == self._settled[path] or now != before:
            return
        self._settled[path] = now
        try:
            self._settled[path], self.ranges[path] = await asyncio.to_thread(asn.load, path)
        except AsnFileError as error:
            self._tell(AsnFileRefused(file=path, line=error.line, problem=f"{error.wrong}, {error.right}"))
        except OSError as error:
            why = f"cannot be read ({error.strerror}), let this user read it"
            self._tell(AsnFileRefused(file=path, line=0, problem=why))
        else:
            self._tell(AsnFileRead(file=path))
