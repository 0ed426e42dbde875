"""Who draws the slider's pictures? A child process, which writes them to a pipe as fast as somebody reads them.

A picture takes some 10 ms of a processor: drawn beside the loop in a thread it would hold the interpreter, so it is
drawn elsewhere, at a low priority. There is no request: the pipe is the bound, for a full one stops the child, and the
child ends when nobody is left to read. Run as `python -m sidecar.captcha.slider_maker`.
"""

import asyncio
import os
import random
import signal
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from contextlib import suppress
from typing import Final

from sidecar.captcha.slider_picture import Picture, draw

# Before each picture: where the piece belongs, and the lengths of both files.
_HEAD: Final = struct.Struct(">HHII")
# Behind the requests, on a machine that has no core to spare.
_NICENESS: Final = 10
# Pictures kept ready: 1 MB, drawn in a second. Beyond them a flood waits for the child, whose pace nobody can raise.
MOST_READY: Final = 64
# A maker that brings no picture for so long hangs: drawing one takes a hundredth of a second, of which it gets what is
# left of the machine.
_HANGS_S: Final = 10.0


class Pictures:
    """The pictures that are ready. `run` fills them up again for as long as it runs."""

    def __init__(self) -> None:
        self._ready: deque[Picture] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self.child: Process | None = None

    @property
    def is_empty(self) -> bool:
        """True while there is no picture to take."""
        return not self._ready

    def take(self) -> Picture | None:
        """Take a picture, which nobody else gets; None while none is ready. Never waits."""
        if not self._ready:
            return None
        self._room.set()
        return self._ready.popleft()

    async def run(self) -> None:
        """Have pictures drawn whenever some are missing.

        Raises IncompleteReadError when the child dies, TimeoutError when it hangs; it is dead then, too.
        """
        child = self.child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", __name__), stdin=DEVNULL, stdout=PIPE
        )
        try:
            while True:
                await self._room.wait()
                async with asyncio.timeout(_HANGS_S):
                    picture = await _read(child)
                self._ready.append(picture)
                if len(self._ready) >= MOST_READY:
                    self._room.clear()
        finally:
            with suppress(ProcessLookupError):  # it has died by itself
                child.kill()
            await child.communicate()  # what is left in the pipe, or the pipe would never be seen to end


async def _read(child: Process) -> Picture:
    assert child.stdout is not None
    x, y, of_scene, of_piece = _HEAD.unpack(await child.stdout.readexactly(_HEAD.size))
    scene = await child.stdout.readexactly(of_scene)
    return Picture(scene, await child.stdout.readexactly(of_piece), x, y)


def main() -> None:
    """Write pictures to the standard output until nobody reads it any more."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the sidecar's to hear
    # Every picture from the system's randomness: none says anything of the next.
    rng = random.SystemRandom()
    try:
        while True:
            picture = draw(rng)
            head = _HEAD.pack(picture.x, picture.y, len(picture.scene), len(picture.piece))
            sys.stdout.buffer.write(head + picture.scene + picture.piece)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(0)  # without another try to flush


if __name__ == "__main__":
    main()
