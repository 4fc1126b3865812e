"""A pod that starts while Optimizely is out of reach, and somebody who looks at it once a second as the kubelet does."""

import time
from typing import Any, Self

from tests.container.machine import SIDECAR, Machine
from tests.container.pods import Pod

LASTS_S = 120
_PROBER = """
import json, time, urllib.error, urllib.request

def ask(url):
    try:
        return urllib.request.urlopen(url, timeout=3).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0

while True:
    livez, readyz = ask("http://127.0.0.1:8088/livez"), ask("http://127.0.0.1:8088/readyz")
    print(json.dumps({"livez": livez, "readyz": readyz, "app": ask("http://127.0.0.1:8000/healthz")}), flush=True)
    time.sleep(1)
"""


class Outage(Pod):
    """A context manager: sidecar, app and prober run when it is entered, and nothing answers for Optimizely."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, "outage")

    @property
    def probes(self) -> list[dict[str, Any]]:
        """What the prober has seen so far: the statuses of `livez`, `readyz` and the `app`, 0 for no answer."""
        return self.logs("prober")

    def remaining_s(self) -> float:
        """How long it must still last."""
        return max(0.0, self._began + LASTS_S - time.monotonic())

    def __enter__(self) -> Self:
        super().__enter__()
        self.sidecar()
        self.app()
        self.run("prober", SIDECAR, "-c", _PROBER, options=("--entrypoint=python",))
        self.sidecar_pid, self.app_pid = self.pid("sidecar"), self.pid("app")
        self._began = time.monotonic()
        return self
