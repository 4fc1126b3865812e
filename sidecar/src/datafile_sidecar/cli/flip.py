"""`datafile-sidecar flip`: switch a flag of the simulator on or off."""

import argparse
import urllib.parse
from collections.abc import Mapping

SUMMARY = "switch a flag of the simulator on or off"
_EPILOG = """\
It works on the simulator's own machine, or in its container, and with nothing but the simulator: Optimizely's flags are
switched in Optimizely.

example:
  kubectl exec deploy/datafile-simulator -- datafile-sidecar flip checkout on"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `flip`."""
    parser.epilog = _EPILOG
    parser.add_argument("flag", metavar="FLAG", help="key of the flag")
    parser.add_argument("state", choices=("on", "off"), help="for everyone that one of its rules applies to")
    parser.add_argument(
        "--url", default="http://127.0.0.1:8090", help="address of the running `simulate` (default: %(default)s)"
    )


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Tell the running simulator to switch a flag, raise the revision and post the webhook, and print what came of it.

    The exit status is 0 when the sidecar took the webhook, or the simulator posts none; else 1.
    """
    from datafile_sidecar.cli import event_loop

    return event_loop.run(flip(options.url, options.flag, options.state))


async def flip(url: str, flag: str, state: str) -> int:
    """Ask the simulator at this URL to switch a flag, and print its answer. Returns the exit status."""
    from aiohttp import ClientError, ClientSession, ClientTimeout, InvalidURL, NonHttpUrlClientError
    from yarl import URL

    # Longer than the simulator itself waits for the answer to its webhook.
    timeout = ClientTimeout(total=15)
    path = f"/flags/{urllib.parse.quote(flag, safe='')}"
    try:
        async with (
            ClientSession(timeout=timeout) as session,
            session.put(URL(url.rstrip("/") + path, encoded=True), data=state) as answer,
        ):
            text = (await answer.text())[:1000].strip()
            taken = answer.status == 200
    except (InvalidURL, NonHttpUrlClientError, ValueError):
        text, taken = f"{url!r} is not a URL, such as http://127.0.0.1:8090", False
    except (ClientError, OSError) as error:
        text, taken = f"no simulator at {url}: {error}; is `datafile-sidecar simulate` running there?", False
    print(text, flush=True)  # noqa: T201
    return 0 if taken else 1
