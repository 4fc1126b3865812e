"""Random pairs of datafiles, decided by the real SDK on both sides."""

from tests.differences import compare_pairs

_PAIRS = 500


def test_never_empty_where_a_decision_changes() -> None:
    """Where the difference has no words, nobody gets another decision; and at least 30 % of the pairs change one."""
    result = compare_pairs(_PAIRS, seed=1)
    assert result.wrong == []
    assert result.deciding >= 0.3 * _PAIRS
    assert result.empty >= 0.1 * _PAIRS
