"""Everything at once in one process: a short form of `make trouble`."""

import json
import subprocess
import sys

import pytest

from tests.client.helpers import ROOT


@pytest.mark.system
@pytest.mark.timeout(120)
def test_random_trouble_loses_nothing_and_hangs_nowhere() -> None:
    """A user's process under signals, forks, restarts and faulty handlers decides rightly and sends each event once."""
    command = [sys.executable, "-m", "tests.trouble", "--seconds", "15", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert min(counts[name] for name in ("decided", "swapped", "interrupted", "restarted", "forked", "events")) > 0
