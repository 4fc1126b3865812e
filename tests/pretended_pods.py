"""Pretended pods: every address of 127.0.0.0/8 is one, at one port. `python -m tests.pretended_pods FILE HANGING_EVERY`.

Each webhook that a pod answers is a line in FILE: its revision and the pod's address. Those whose last number can be divided
by HANGING_EVERY read it, and never answer.
"""

import asyncio
import json
import sys
from typing import TextIO

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Pod(asyncio.Protocol):
    """One connection."""

    def __init__(self, file: TextIO, hanging_every: int) -> None:
        self._file, self._hanging_every = file, hanging_every
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._host: str = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        self._received += data
        _, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or not body.endswith(b"}") or int(self._host.rpartition(".")[2]) % self._hanging_every == 0:
            return
        assert isinstance(self._transport, asyncio.Transport)
        self._file.write(f"{json.loads(body)['data']['revision']} {self._host}\n")
        self._file.flush()
        self._transport.write(ANSWER)
        self._transport.close()


async def main() -> None:
    """Serve until the process is ended; the first line of output is the port."""
    with open(sys.argv[1], "w") as file:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Pod(file, int(sys.argv[2])), "0.0.0.0", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
