"""What do the vendors say? Turnstile's siteverify and Twilio, simulated on two ports of one process, as cheap as may be.

A captcha token that begins with "good" is right. A message is kept, so that the bench can count them and read the codes:
`GET /counts` (Twilio's port) gives how many there were, of how many numbers, and when the last came, by the clock that all
processes of a machine share; `GET /codes` each number's code; `GET /reset` forgets all.
"""

import asyncio
import json
import re
import sys
import time
from urllib.parse import parse_qs

import uvloop

TO = re.compile(rb"(?:^|&)To=%2B(\d+)")
CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")


def answer(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


RIGHT = answer(b"200 OK", b'{"success":true,"error-codes":[],"hostname":"www.example.com","action":"","cdata":""}')
WRONG = answer(b"200 OK", b'{"success":false,"error-codes":["invalid-input-response"]}')
BAD = answer(b"400 Bad Request", b'{"code":21604,"message":"a To is required","status":400}')
SID = b'{"sid":"SM%032x","status":"queued","error_code":null}'

messages: dict[bytes, bytes] = {}  # digits -> the last form that was sent for them
count, last_at = 0, 0.0


class Vendor(asyncio.Protocol):
    """One connection: a request with its body whole, then the answer."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        data = self.buffer + data if self.buffer else data
        head = data.find(b"\r\n\r\n")
        at = data.lower().find(b"content-length:", 0, head) if head >= 0 else -1
        length = int(data[at + 15 : data.index(b"\r", at)]) if at >= 0 else 0
        if head < 0 or len(data) < head + 4 + length:
            self.buffer = data
            return
        self.buffer = b""
        self.transport.write(self.reply(data[: data.index(b"\r")], data[head + 4 :]))


class Siteverify(Vendor):
    def reply(self, line, body):
        return RIGHT if b"response=good" in body else WRONG


class Twilio(Vendor):
    def reply(self, line, body):
        global count, last_at
        if line.startswith(b"GET"):
            return answer(b"200 OK", json.dumps(self.told(line.split()[1])).encode())
        to = TO.search(body)
        if to is None:
            return BAD
        messages[to[1]] = body
        count, last_at = count + 1, time.perf_counter()
        return answer(b"201 Created", SID % count)

    def told(self, path):
        global count, last_at
        if path == b"/reset":
            messages.clear()
            count, last_at = 0, 0.0
        if path == b"/codes":
            return {
                f"+{to.decode()}": CODE.search(parse_qs(body.decode())["Body"][0])[0] for to, body in messages.items()
            }
        return {"messages": count, "numbers": len(messages), "last_at": last_at}


async def main(siteverify, twilio):
    loop = asyncio.get_running_loop()
    await loop.create_server(Siteverify, "127.0.0.1", siteverify, backlog=1024)
    server = await loop.create_server(Twilio, "127.0.0.1", twilio, backlog=1024)
    await server.serve_forever()


uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
