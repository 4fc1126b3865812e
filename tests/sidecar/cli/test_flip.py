"""`datafile-sidecar flip`: a flag of the simulator is switched, published and announced."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, TCPConnector
from hypothesis import given
from hypothesis import strategies as st
from optimizely.optimizely import Optimizely
from optimizely.optimizely_config import OptimizelyConfig

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.flip import flip
from datafile_sidecar.cli.simulator.flags import FlagError, switched
from datafile_sidecar.cli.simulator.serve_file import serve_file
from tests.sidecar.cli.webhook_receiver import KEY, SECRET, Receiver, datafile

_FLAGS = {"checkout": False, "search": True, "mail": False}


def _enabled(body: bytes) -> dict[str, bool]:
    """What the SDK's own reading of a datafile says of each flag: on for everyone, or not."""
    instance = Optimizely(body.decode(), skip_json_validation=False)
    config = instance.get_optimizely_config()
    assert isinstance(config, OptimizelyConfig)
    user = instance.create_user_context("user-1")
    assert user
    return {key: user.decide(key, ["DISABLE_DECISION_EVENT"]).enabled for key in config.features_map}


class TestSwitched:
    @given(st.dictionaries(st.sampled_from(["a", "b", "c d", "é"]), st.booleans(), min_size=1), st.booleans())
    def test_one_flag(self, flags: dict[str, bool], on: bool) -> None:
        """The flag that is named has the state that is asked for, and all else stays as it is."""
        fields = json.loads(make_datafile(flags))
        before = json.dumps(fields)
        name = min(flags)
        changed = switched(fields, name, on=on)
        assert json.dumps(fields) == before
        assert json.dumps(switched(changed, name, on=on)) == json.dumps(changed)
        assert json.dumps(switched(changed, name, on=flags[name])) == before

    @pytest.mark.parametrize("on", [True, False])
    def test_decided(self, on: bool) -> None:
        """The real SDK decides by the switched datafile as somebody expects who has read `on` or `off`."""
        changed = switched(json.loads(make_datafile(_FLAGS)), "checkout", on=on)
        assert _enabled(json.dumps(changed).encode()) == {**_FLAGS, "checkout": on}

    def test_experiments(self) -> None:
        """A flag that an experiment decides, in a group or not, is switched there, and other experiments are left alone."""

        def experiment(identity: str) -> dict[str, object]:
            return {"id": identity, "variations": [{"featureEnabled": True}, {"featureEnabled": False}]}

        fields = {
            "featureFlags": [{"key": "f", "rolloutId": "", "experimentIds": ["1", "2"]}],
            "rollouts": [],
            "experiments": [experiment("1"), experiment("3")],
            "groups": [{"experiments": [experiment("2")]}],
        }
        changed = switched(fields, "f", on=False)
        states = [
            [variation["featureEnabled"] for variation in one["variations"]]
            for one in (*changed["experiments"], *changed["groups"][0]["experiments"])
        ]
        assert states == [[False, False], [True, False], [False, False]]

    def test_no_such_flag(self) -> None:
        """Whoever mistypes a flag reads which ones there are, and of a hostile name only the beginning, escaped."""
        fields = json.loads(make_datafile(_FLAGS))
        with pytest.raises(FlagError, match="there is no flag 'chekout'; this datafile has checkout, mail, search"):
            switched(fields, "chekout", on=True)
        with pytest.raises(FlagError) as caught:
            switched(fields, "\n" * 1000, on=True)
        assert len(str(caught.value)) < 250
        fields["rollouts"] = []
        with pytest.raises(FlagError, match="no rule"):
            switched(fields, "mail", on=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "flags.json"
    file.write_bytes(make_datafile(_FLAGS, revision=42))
    return file


class Running:
    """A running `simulate`."""

    def __init__(self, capsys: pytest.CaptureFixture[str], url: str) -> None:
        self._capsys = capsys
        self.url = url

    async def flip(self, flag: str, state: str) -> tuple[int, str]:
        """The exit status of `flip`, and what it printed."""
        self._capsys.readouterr()
        status = await flip(self.url, flag, state)
        return status, self._capsys.readouterr().out.strip().splitlines()[-1]

    async def served(self) -> tuple[int, dict[str, bool]]:
        async with ClientSession() as session, session.get(f"{self.url}/datafiles/{KEY}.json") as answer:
            body = await answer.read()
        return int(json.loads(body)["revision"]), _enabled(body)


@contextlib.asynccontextmanager
async def _running(
    capsys: pytest.CaptureFixture[str], file: Path, webhook_url: str | None = None, state: Path | None = None
) -> AsyncIterator[Running]:
    command = asyncio.create_task(
        serve_file(
            datafile=file,
            sdk_key=KEY,
            listen="127.0.0.1:0",
            webhook_url=webhook_url,
            secret=SECRET,
            lag_s=0,
            state=state,
        )
    )
    printed = ""
    async with asyncio.timeout(5):
        while "Each edit" not in printed:
            printed += capsys.readouterr().out
            await asyncio.sleep(0.01)
    yield Running(capsys, printed.partition("DATAFILE_URL_TEMPLATE=")[2].partition("/datafiles/")[0])
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await command == 0


class TestFlip:
    async def test_on_and_off(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """One command switches a flag: the next revision is served and announced, and the local file is not written."""
        before = file.read_bytes()
        async with _running(capsys, file, receiver.url) as simulate:
            status, words = await simulate.flip("checkout", "on")
            assert status == 0
            assert "checkout is on: revision 43 is served; webhook answered 202" in words
            assert await simulate.served() == (43, {**_FLAGS, "checkout": True})
            assert (await simulate.flip("search", "off"))[0] == 0
            assert await simulate.served() == (44, {"checkout": True, "search": False, "mail": False})
        assert [json.loads(body)["data"]["revision"] for body, _ in receiver.got] == [43, 44]
        assert file.read_bytes() == before

    async def test_no_webhook(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Where the simulator posts no webhook, a flip is a success all the same."""
        async with _running(capsys, file) as simulate:
            status, words = await simulate.flip("mail", "on")
        assert (status, words) == (0, "mail is on: revision 43 is served; no webhook posted")

    async def test_not_taken(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """A script learns by the exit status that the sidecar did not take the webhook, and a person reads why."""
        receiver.status = 401
        async with _running(capsys, file, receiver.url) as simulate:
            status, words = await simulate.flip("mail", "on")
        assert status == 1
        assert "another secret" in words

    async def test_unknown(self, file: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
        """A mistyped flag changes nothing, whatever characters it has."""
        async with _running(capsys, file, receiver.url) as simulate:
            for flag in ("chekout", "a/b", "%2e%2e", "é"):
                status, words = await simulate.flip(flag, "on")
                assert status == 1
                assert "this datafile has checkout, mail, search" in words
            assert (await simulate.served())[0] == 42
        assert not receiver.got

    async def test_only_from_here(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Another pod can fetch from the simulator and switch nothing, and neither can a wrong word."""
        async with _running(capsys, file) as simulate:
            async with ClientSession(connector=TCPConnector(local_addr=("127.0.0.6", 0))) as session:
                async with session.put(f"{simulate.url}/flags/checkout", data="on") as answer:
                    assert answer.status == 403
                async with session.get(f"{simulate.url}/datafiles/{KEY}.json") as answer:
                    assert answer.status == 200
            async with ClientSession() as session, session.put(f"{simulate.url}/flags/checkout", data="x") as answer:
                assert answer.status == 400
            assert (await simulate.served())[0] == 42

    @pytest.mark.parametrize(
        ("url", "words"), [("http://127.0.0.1:1", "datafile-sidecar simulate"), ("nonsense", "is not a URL")]
    )
    async def test_no_simulator(self, capsys: pytest.CaptureFixture[str], url: str, words: str) -> None:
        """Nobody there, or not a URL: one sentence, and status 1."""
        assert await flip(url, "checkout", "on") == 1
        assert words in capsys.readouterr().out


class TestState:
    async def test_restart(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A simulator whose container was restarted serves what it served, and counts on; an edit replaces it."""
        state = tmp_path / "state" / "served.json"
        state.parent.mkdir()
        async with _running(capsys, file, state=state) as simulate:
            await simulate.flip("checkout", "on")
            await simulate.flip("mail", "on")
        async with _running(capsys, file, state=state) as simulate:
            assert await simulate.served() == (44, {"checkout": True, "search": True, "mail": True})
            await simulate.flip("mail", "off")
            assert await simulate.served() == (45, {"checkout": True, "search": True, "mail": False})
            file.write_bytes(make_datafile({"new": True}, revision=1))
            async with asyncio.timeout(5):
                while (await simulate.served())[0] != 46:
                    await asyncio.sleep(0.02)
            assert (await simulate.served())[1] == {"new": True}
        async with _running(capsys, file, state=state) as simulate:
            assert await simulate.served() == (46, {"new": True})
        assert [path.name for path in state.parent.iterdir()] == ["served.json"]

    async def test_not_kept(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A state that can't be written is said by `flip`, and the old datafile goes on being served."""
        async with _running(capsys, file, state=tmp_path / "missing" / "served.json") as simulate:
            status, words = await simulate.flip("checkout", "on")
            assert status == 1
            assert "can't be kept: [Errno 2]" in words
            assert (await simulate.served())[0] == 42

    async def test_broken(self, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A state that is no datafile is an error at the start."""
        state = tmp_path / "served.json"
        state.write_bytes(datafile(1)[:50])
        status = await serve_file(
            datafile=file, sdk_key=KEY, listen="127.0.0.1:0", webhook_url=None, secret=None, lag_s=0, state=state
        )
        assert status == 2
        printed = capsys.readouterr().out
        assert "not strict JSON" in printed
        assert f"{state} holds what was served before: remove it to begin anew" in printed
