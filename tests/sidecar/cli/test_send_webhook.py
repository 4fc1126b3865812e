"""`datafile-sidecar send-webhook`: what is posted, and how each answer is explained."""

from argparse import Namespace

import pytest

from datafile_sidecar.cli.send_webhook import send_webhook
from datafile_sidecar.core import webhook
from tests.sidecar.cli.webhook_receiver import KEY, SECRET, Receiver, announced


class TestSendWebhook:
    @pytest.mark.parametrize(
        ("status", "exit_status", "words"),
        [
            (202, 0, "acts on it now"), (200, 0, "nothing to do"), (204, 0, "nothing to do"),
            (401, 1, "secret"), (503, 1, "DATAFILE_WEBHOOK_SECRETS"),
            (400, 1, "cannot read"), (418, 1, "something else"),
        ],
    )  # fmt: skip
    async def test_answers(
        self, receiver: Receiver, capsys: pytest.CaptureFixture[str], status: int, exit_status: int, words: str
    ) -> None:
        """Every answer of the sidecar comes with its meaning, and a script can tell good from bad."""
        receiver.status = status
        assert await send(receiver.url) == exit_status
        printed = capsys.readouterr().out
        assert f"answered {status}" in printed
        assert words in printed
        [(body, headers)] = receiver.got
        assert webhook.verify(body, headers["X-Hub-Signature"].encode(), [SECRET])
        assert announced(body) == (KEY,)
        assert b"optimizely.com" not in body  # it would send a sidecar on a laptop to the real CDN

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("http://127.0.0.1:1/webhooks/optimizely", "is the sidecar running"),
            ("127.0.0.1:8089", "is not a URL"),
            ("nonsense", "is not a URL"),
            ("http://nowhere..x/", "is not a URL"),
            ("", "is not a URL"),
        ],
    )
    async def test_not_delivered(self, capsys: pytest.CaptureFixture[str], url: str, words: str) -> None:
        """No server there, or not a URL: one sentence says so, without a traceback."""
        assert await send(url) == 1
        assert words in capsys.readouterr().out

    async def test_wrong_path(self, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong path is answered with the right one."""
        assert await send(receiver.url.removesuffix("optimizely")) == 1
        assert "/webhooks/optimizely" in capsys.readouterr().out


async def send(url: str) -> int:
    options = Namespace(sdk_key=KEY, revision=43, withdraw=None, project_id=None, environment="Production")
    return await send_webhook(options, url, SECRET)
