"""The memory of what was relayed: which revisions are the newest."""

from datafile_sidecar.core.webhook import DatafileUpdated
from datafile_sidecar.webhooks.relay import Relay, RelayMemory


async def test_a_withdrawn_revision_supersedes_nothing() -> None:
    """A number that was announced by mistake holds up the true ones only until it is taken back."""
    memory = RelayMemory()
    begin(memory, 44)
    begin(memory, 9000)
    true = begin(memory, 45)
    assert memory.is_superseded(true)
    begin(memory, 9000, is_withdrawal=True)
    assert not memory.is_superseded(true)
    assert memory.priority(begin(memory, 46)) < memory.priority(true)


def begin(memory: RelayMemory, revision: int, *, is_withdrawal: bool = False) -> Relay:
    event = DatafileUpdated("1234", revision, "Production", (), is_withdrawal=is_withdrawal)
    relay = memory.begin(f"{revision} {is_withdrawal}".encode(), b"sha1=", event, 0.0)
    assert relay
    return relay
