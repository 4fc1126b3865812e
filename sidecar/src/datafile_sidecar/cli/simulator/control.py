"""The part of the simulator that `datafile-sidecar flip` talks to. It answers to its own machine, or pod, alone."""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from datafile_sidecar.cli.simulator.flags import FlagError

# Not all of 127.0.0.0/8: some service meshes deliver the requests of other pods from there.
_OWN = {"127.0.0.1", "::1"}
_STATES = {"on": True, "off": False}

Flip = Callable[[str, bool], Awaitable[tuple[bool, str]]]
"""Switch this flag on or off. Returns whether the sidecar took the webhook, and a sentence. Raises FlagError."""


def control_routes(flip: Flip) -> Sequence[web.RouteDef]:
    """Return the route `PUT /flags/FLAG` with the body `on` or `off`. Browsers send no such request to another site."""

    async def answer(request: web.Request) -> web.Response:
        peer = request.transport.get_extra_info("peername") if request.transport else None
        if not peer or peer[0] not in _OWN:
            return web.Response(status=403, text="flags are switched from the simulator's own machine or pod only\n")
        state = _STATES.get((await request.text()).strip())
        if state is None:
            return web.Response(status=400, text="a flag is switched on or off\n")
        try:
            delivered, words = await flip(request.match_info["flag"], state)
        except FlagError as error:
            return web.Response(status=404, text=f"{error}\n")
        except OSError as error:
            return web.Response(status=500, text=f"the new datafile can't be kept: {error}\n")
        return web.Response(status=200 if delivered else 502, text=f"{words}\n")

    return [web.put("/flags/{flag}", answer)]
