"""Whose turn it is to be asked."""

from datafile_sidecar.core.source_rotation import CDN, SourceRotation


def test_polls_ask_the_cdn_alone() -> None:
    """Without a webhook there is one source."""
    rotation = SourceRotation()
    assert [rotation.take(0) for _ in range(3)] == [CDN] * 3


def test_urls_of_a_webhook_take_rotation_with_the_cdn() -> None:
    """The origin comes first, then each in its turn."""
    rotation = SourceRotation()
    rotation.add(["o"])
    assert [rotation.take(0) for _ in range(4)] == ["o", CDN, "o", CDN]


def test_a_url_that_is_named_again_does_not_jump_the_queue() -> None:
    """A flood of webhooks does not starve the CDN."""
    rotation = SourceRotation()
    asked = []
    for _ in range(6):
        rotation.add(["o"])
        asked.append(rotation.take(0))
    assert asked.count(CDN) == 3


def test_one_that_failed_rests_while_the_other_is_asked() -> None:
    """A dead origin costs nothing while the CDN answers."""
    rotation = SourceRotation()
    rotation.add(["o"])
    assert rotation.take(0) == "o"
    rotation.back_off("o", until=10)
    assert [rotation.take(1), rotation.take(2), rotation.take(10)] == [CDN, CDN, "o"]


def test_when_all_rest_nobody_is_asked() -> None:
    """And it is known when the first has rested enough; news may end all rests."""
    rotation = SourceRotation()
    rotation.back_off(CDN, until=60)
    assert rotation.take(59) is None
    assert rotation.available_at() == 60
    rotation.end_backoff()
    assert rotation.take(0) == CDN


def test_failures_are_counted_in_a_row() -> None:
    """A good answer makes the next failure the first one again."""
    rotation = SourceRotation()
    assert [rotation.failed(CDN), rotation.failed(CDN)] == [1, 2]
    rotation.succeeded(CDN)
    assert rotation.failed(CDN) == 1


def test_any_number_of_urls_is_bounded_and_never_crowds_out_the_cdn() -> None:
    """Many webhooks with many URLs cost no memory."""
    rotation = SourceRotation()
    for number in range(100):
        rotation.add([f"u{number}"])
    asked = {rotation.take(0) for _ in range(8)}
    assert len(asked) == 4
    assert CDN in asked


def test_after_a_chase_its_urls_are_forgotten() -> None:
    """Polls go back to the CDN; a forgotten URL that still answers disturbs nothing."""
    rotation = SourceRotation()
    rotation.add(["o"])
    rotation.only_cdn()
    rotation.back_off("o", until=99)
    rotation.succeeded("o")
    assert [rotation.take(0), rotation.take(0)] == [CDN, CDN]


def test_a_new_key_may_be_fetched_at_once() -> None:
    """Nothing holds back the first fetch after the start, nor that of a URL which a webhook has just named."""
    rotation = SourceRotation()
    rotation.add(["o"])
    assert rotation.available_at() == 0
    rotation.back_off(CDN, until=60)
    assert rotation.available_at() == 0


def test_a_late_failure_of_a_forgotten_url_counts_for_no_other_source() -> None:
    """The CDN is not held back because a mirror that a webhook had named fails."""
    rotation = SourceRotation()
    for url in ("a", "z"):
        assert [rotation.failed(url), rotation.failed(url)] == [1, 1]
        rotation.back_off(url, until=99)
    assert (rotation.available_at(), rotation.failed(CDN)) == (0, 1)


def test_three_urls_take_turns_with_the_cdn() -> None:
    """The newest URLs stay when there are too many, in the order in which the webhooks named them."""
    rotation = SourceRotation()
    rotation.add(["a", "b"])
    rotation.add(["c", "c", "d"])
    assert [rotation.take(0) for _ in range(5)] == ["c", "d", "a", CDN, "c"]
