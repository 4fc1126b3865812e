"""The validators of a datafile: what makes the next request for it conditional. One type for upstream and the bus."""

from typing import Annotated

import msgspec

MAX_TEXT = 1024
"""The bus carries validators up to this many characters each."""

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class Validators(msgspec.Struct, frozen=True, kw_only=True):
    """The validators that came with the datafile at `url`: they are sent to this URL only.

    Decoding refuses texts over MAX_TEXT characters; the constructor does not, because upstream may send longer ones.
    """

    url: _Text
    etag: _Text | None = None
    last_modified: _Text | None = None
