"""What to do with a datafile that another pod shares.

Laws: within a generation the newer one is taken, and nothing that was gone back from; a new generation is never taken on
another pod's word: upstream is asked, at most once in ten seconds. A pod that has nothing takes what there is.
"""

from dataclasses import replace
from enum import StrEnum

from datafile_sidecar.core.reconcile import Offer, State, merged, on_disk

ASK_AGAIN_S = 10.0


class Opinion(StrEnum):
    """What to do with an offer."""

    TAKE = "take"
    """Publish it."""
    ASK = "ask"
    """It says that the fleet went back; ask upstream whether it did."""
    JOIN = "join"
    """It is what we have, in a later generation."""
    IGNORE = "ignore"


def weigh(state: State, offer: Offer, *, fetched: float, have_fetched: float) -> Opinion:
    """What to do with an offer. `fetched` is when upstream served it, `have_fetched` when it served what is on disk."""
    if offer.generation < state.generation:
        return Opinion.IGNORE
    if state.observed is None:
        return Opinion.TAKE
    if offer.version == state.observed:
        return Opinion.JOIN if offer.generation > state.generation else Opinion.IGNORE
    if offer.generation > state.generation:
        return Opinion.IGNORE if _is_known(state, offer) else Opinion.ASK
    if offer.version.sha256 in state.left:
        return Opinion.IGNORE
    newer = (offer.version.revision, fetched) > (state.observed.revision, have_fetched)
    return Opinion.TAKE if newer else Opinion.IGNORE


def _is_known(state: State, offer: Offer) -> bool:
    known = state.offer
    return known is not None and (known.version, known.generation) == (offer.version, offer.generation)


def ask(state: State, offer: Offer) -> State:
    """Ask upstream about an offer: now, unless that was done a moment ago; then in a while."""
    is_early = state.offer is not None and offer.at - state.offer.at < ASK_AGAIN_S
    return replace(state, offer=offer, due=state.due or not is_early)


def join(state: State, offer: Offer) -> State:
    """Come into the generation in which others have what we have."""
    left = merged(state.left, offer.left, offer.version)
    return replace(state, generation=offer.generation, left=left, offer=None)


def take(state: State, offer: Offer) -> State:
    """What was offered was renamed into place. At start, upstream or a younger check still has to confirm it."""
    state = on_disk(join(state, offer), offer.version)
    due = state.due and bool(state.announced or state.nudged or not state.checked)
    return replace(state, due=due, older=None)


def is_outvoted(state: State, now: float, patience_s: float) -> bool:
    """Whether the bus has offered something for so long, while upstream served something else, that it must be wrong."""
    return state.offer is not None and now - state.offer.at >= patience_s


def drop(state: State) -> State:
    """Think of the offer no more."""
    return replace(state, offer=None)
