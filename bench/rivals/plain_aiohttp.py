"""The proxy that one would write first: aiohttp's server in front of aiohttp's client."""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection", "host"}


async def main(port: int, upstream: int) -> None:
    base = f"http://127.0.0.1:{upstream}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout(None)
    ) as session:

        async def socket(request: web.BaseRequest) -> web.StreamResponse:
            near = web.WebSocketResponse()
            await near.prepare(request)
            async with session.ws_connect(base + request.raw_path) as far:

                async def pump(source, sink):
                    async for message in source:
                        await sink.send_str(message.data)

                await asyncio.wait(
                    [asyncio.create_task(pump(near, far)), asyncio.create_task(pump(far, near))],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            return near

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await socket(request)
            fields = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP]
            content = request.content if request.body_exists else None
            async with session.request(
                request.method, base + request.raw_path, headers=fields, data=content, allow_redirects=False
            ) as answer:
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
