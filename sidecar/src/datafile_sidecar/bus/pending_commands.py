"""Commands that wait for their turn on the connection, so that no caller waits for the broker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from datafile_sidecar.bus.broker import Broker

Command = Callable[[Broker], Awaitable[object]]


class PendingCommands:
    """A queue with at most one command for each kind and SDK key: a newer one replaces the older."""

    def __init__(self) -> None:
        self._commands: dict[tuple[str, str], Command] = {}
        self._added = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, kind: str, sdk_key: str, command: Command) -> None:
        """Queue a command."""
        self._commands[kind, sdk_key] = command
        self._idle.clear()
        self._added.set()

    def clear(self) -> None:
        """Drop all commands."""
        self._commands.clear()
        self._idle.set()

    async def settle(self) -> None:
        """Return when no command is queued or running."""
        await self._idle.wait()

    async def run(self, execute: Callable[[Command], Awaitable[None]]) -> NoReturn:
        """Execute the commands one by one, for ever."""
        while True:
            while self._commands:
                await execute(self._commands.pop(next(iter(self._commands))))
            self._added.clear()
            self._idle.set()
            await self._added.wait()
