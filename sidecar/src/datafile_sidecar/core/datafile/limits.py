"""Limits on JSON text, checked before it is decoded and with little memory.

Decoding has no limits: a few megabytes of empty lists become a hundred megabytes of objects, in the sidecar and then in
each process of the app. So values and nesting are counted first, by bytes methods that run in C.
"""

import codecs
import re
from array import array
from itertools import accumulate

from datafile_sidecar.core.datafile.errors import InvalidDatafileError

MAX_VALUES = 1_000_000
MAX_DEPTH = 100
MAX_DIGITS = 4300

_ESCAPES = b"\\/bfnrtu"
_IRRELEVANT = bytes(set(range(256)) - set(b'"[]{},') - set(_ESCAPES))
_STRING = re.compile(rb'"[^"]*"')
_DEPTH_CHANGE = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_BLOCK = 64 * 1024


def check_utf8(text: bytes) -> None:
    """Check that the bytes are UTF-8, without keeping a decoded copy.

    An incomplete last character is not noticed; the JSON decoder refuses it.

    Raises:
        InvalidDatafileError: The bytes are not UTF-8.
    """
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text), _BLOCK):
            decoder.decode(text[start : start + _BLOCK])
    except UnicodeDecodeError as error:
        raise InvalidDatafileError("not UTF-8") from error


def check_limits(text: bytes) -> None:
    """Check the number of values, the depth and the length of numbers. Text that is not JSON may pass or fail.

    Raises:
        InvalidDatafileError: A limit is exceeded.
    """
    if len(text) < MAX_DEPTH:
        return
    structure = _outside_strings(text)
    if structure.count(b",") + structure.count(b"[") + structure.count(b"{") > MAX_VALUES:
        raise InvalidDatafileError(f"more than {MAX_VALUES} values")
    if max(accumulate(array("b", structure.translate(_DEPTH_CHANGE, b","))), default=0) > MAX_DEPTH:
        raise InvalidDatafileError(f"nested more than {MAX_DEPTH} deep")
    if b"0" * (MAX_DIGITS + 1) in text.translate(_DIGITS_TO_ZERO):
        raise InvalidDatafileError(f"a number with more than {MAX_DIGITS} digits")


def _outside_strings(text: bytes) -> bytearray:
    """Return the brackets, braces and commas of JSON text that are not part of a string."""
    # A backslash and the character after it must stay together until escaped quotes are removed.
    kept = text.translate(None, _IRRELEVANT)
    kept = kept.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _ESCAPES)
    # Most strings are now just a pair of quotes. Removing pairs leaves the parity of quotes elsewhere as it is.
    kept = kept.replace(b'""', b"")
    outside, open_quote = bytearray(), b""
    # Block by block: splitting at once could create millions of pieces.
    for start in range(0, len(kept), _BLOCK):
        block = _STRING.sub(b"", open_quote + kept[start : start + _BLOCK])
        before, open_quote, _ = block.partition(b'"')
        outside += before
    return outside
