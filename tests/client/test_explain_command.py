"""`python -m datafile_client explain`: the decision of the app, with its reasons, without any network."""

import subprocess
import sys
from pathlib import Path

import pytest

from datafile_client._explain_command import main
from datafile_client.testing import make_datafile
from tests.datafiles import realistic

KEY = "KEY1"
_NO_SOCKET = """
import sys
from datafile_client._explain_command import main
def hook(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"opens a socket: {event}")
sys.addaudithook(hook)
sys.exit(main(sys.argv[1:], {}))
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory with a datafile, as the sidecar leaves it."""
    (tmp_path / f"{KEY}.json").write_bytes(realistic(20, 43))
    return tmp_path


def explained(capsys: pytest.CaptureFixture[str], volume: Path, *words: str, status: int = 0) -> str:
    """What is printed."""
    assert main(["explain", *words], {"DATAFILE_DIR": str(volume), "DATAFILE_SDK_KEYS": KEY}) == status
    said = capsys.readouterr()
    return said.out + said.err


def test_no_socket(volume: Path) -> None:
    """Once the SDK is imported, no socket is opened: what would ask a server is named."""
    command = [sys.executable, "-c", _NO_SOCKET, "explain", "feature_0", "user-1", "--datafile", f"{volume}/{KEY}.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "Not asked: what only the app knows: its user profiles, forced decisions and forced variations." in done.stdout
    )
    assert "Not asked: ODP, for the user's segments: name them with --segment." in done.stdout


def test_decision(capsys: pytest.CaptureFixture[str], volume: Path) -> None:
    """What is printed says which datafile decides, the decision, the rule, the variables, and the reasons."""
    text = explained(capsys, volume, "feature_1", "user-5", "--attribute=attribute_2=18.5", "--segment=seg-1")
    assert f"{KEY}.json, revision 43:\nfeature_1 is " in text
    for words in (
        " for user-5: variation ",
        ", by rule ",
        "  variable_1 = 10\n",
        "\nbecause:\n  ",
        "Not asked: what only the app",
    ):
        assert words in text
    assert "ODP" not in text


def test_against(capsys: pytest.CaptureFixture[str], volume: Path) -> None:
    """Two datafiles are compared by what they decide for this user."""
    other = volume / "other.json"
    other.write_bytes(make_datafile({"checkout": False}, revision=42, sdk_key="another"))
    (volume / f"{KEY}.json").write_bytes(make_datafile({"checkout": True}, revision=43, sdk_key=KEY))
    text = explained(capsys, volume, "checkout", "user-1", "--against", str(other))
    assert text.index("checkout is on for user-1") < text.index("checkout is off for user-1")
    assert "Both datafiles decide otherwise." in text
    (volume / f"{KEY}.json").write_bytes(make_datafile({"checkout": False}, revision=44, sdk_key=KEY))
    assert "Both datafiles decide the same." in explained(capsys, volume, "checkout", "u", "--against", str(other))


def test_no_other_user(capsys: pytest.CaptureFixture[str], volume: Path) -> None:
    """No other user's id is printed, and the values that audiences ask for only with --verbose."""
    text = explained(capsys, volume, "feature_0", "user-2")
    verbose = explained(capsys, volume, "feature_0", "user-2", "--verbose")
    assert "qa-user" not in text + verbose
    assert "seg-0" not in text
    assert '"value": "seg-0"' in verbose


def test_hostile_names(capsys: pytest.CaptureFixture[str], volume: Path) -> None:
    """Names cannot move the cursor or break a line."""
    (volume / f"{KEY}.json").write_bytes(make_datafile({"x\x1b[2J\n": True}, sdk_key=KEY))
    text = explained(capsys, volume, "x\x1b[2J\n", "user\r")
    assert not set("\x1b\r") & set(text)
    assert "\\x1b[2J" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"{}", "not valid by the SDK's schema"),
        (b"[", "not JSON"),
        (make_datafile({"other": True}, sdk_key=KEY), "There is no flag 'checkout'"),
    ],
)
def test_no_decision(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, reason: str) -> None:
    """Where there is no datafile or no such flag, that is said, with exit status 1."""
    if content is not None:
        (tmp_path / f"{KEY}.json").write_bytes(content)
    assert reason in explained(capsys, tmp_path, "checkout", "user-1", status=1)


def test_which_datafile(capsys: pytest.CaptureFixture[str], volume: Path) -> None:
    """Of several SDK keys one has to be named."""
    environ = {"DATAFILE_DIR": str(volume), "DATAFILE_SDK_KEYS": f"{KEY},KEY2"}
    assert main(["explain", "feature_0", "u"], environ) == 2
    assert "--datafile" in capsys.readouterr().err
    assert main(["explain", "feature_0", "u", "--sdk-key", KEY], environ) == 0


def test_attributes(capsys: pytest.CaptureFixture[str], volume: Path) -> None:
    """An attribute without a value is refused by name."""
    with pytest.raises(SystemExit) as left:
        main(["explain", "feature_0", "u", "--attribute", "plan"], {})
    assert left.value.code == 2
    assert "'plan' is not KEY=VALUE" in capsys.readouterr().err


def test_module() -> None:
    """It runs as a module, and its help says what it needs."""
    command = [sys.executable, "-m", "datafile_client", "explain", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "It changes nothing and asks no server." in done.stdout
