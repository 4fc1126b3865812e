"""Whose turn it is to be asked."""

from datafile_sidecar.core.source_rotation import CDN, Turns


def test_polls_ask_the_cdn_alone() -> None:
    """Without a webhook there is one source."""
    turns = Turns()
    assert [turns.take(0) for _ in range(3)] == [CDN] * 3


def test_urls_of_a_webhook_take_turns_with_the_cdn() -> None:
    """The origin comes first, then each in its turn."""
    turns = Turns()
    turns.add(["o"])
    assert [turns.take(0) for _ in range(4)] == ["o", CDN, "o", CDN]


def test_a_url_that_is_named_again_does_not_jump_the_queue() -> None:
    """A flood of webhooks does not starve the CDN."""
    turns = Turns()
    asked = []
    for _ in range(6):
        turns.add(["o"])
        asked.append(turns.take(0))
    assert asked.count(CDN) == 3


def test_one_that_failed_rests_while_the_other_is_asked() -> None:
    """A dead origin costs nothing while the CDN answers."""
    turns = Turns()
    turns.add(["o"])
    assert turns.take(0) == "o"
    turns.rest("o", until=10)
    assert [turns.take(1), turns.take(2), turns.take(10)] == [CDN, CDN, "o"]


def test_when_all_rest_nobody_is_asked() -> None:
    """And it is known when the first has rested enough; news may end all rests."""
    turns = Turns()
    turns.rest(CDN, until=60)
    assert turns.take(59) is None
    assert turns.available_at() == 60
    turns.wake()
    assert turns.take(0) == CDN


def test_failures_are_counted_in_a_row() -> None:
    """A good answer makes the next failure the first one again."""
    turns = Turns()
    assert [turns.failed(CDN), turns.failed(CDN)] == [1, 2]
    turns.answered(CDN)
    assert turns.failed(CDN) == 1


def test_any_number_of_urls_is_bounded_and_never_crowds_out_the_cdn() -> None:
    """Many webhooks with many URLs cost no memory."""
    turns = Turns()
    for number in range(100):
        turns.add([f"u{number}"])
    asked = {turns.take(0) for _ in range(8)}
    assert len(asked) == 4
    assert CDN in asked


def test_after_a_chase_its_urls_are_forgotten() -> None:
    """Polls go back to the CDN; a forgotten URL that still answers disturbs nothing."""
    turns = Turns()
    turns.add(["o"])
    turns.only_cdn()
    turns.rest("o", until=99)
    turns.answered("o")
    assert [turns.take(0), turns.take(0)] == [CDN, CDN]
