"""What JSON text costs its readers, found out before anything is built from it, in memory that does not multiply.

Decoding is fast but trusting: a few megabytes of empty lists become a hundred megabytes of objects, in the sidecar and
then in each process of the app. So values and nesting are counted first, by passes that run in C over plain bytes.
"""

import codecs
import re
from array import array
from itertools import accumulate

MAX_VALUES = 1_000_000
MAX_DEPTH = 100
MAX_DIGITS = 4300

_MARKS = b'"[]{},'
_NOT_A_MARK = bytes(set(range(256)) - set(_MARKS))
_STRING = re.compile(rb'"[^"]*"')
_STEP = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_DIGIT_AS_ZERO = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else ord(" ") for byte in range(256))
_TOO_MANY_DIGITS = b"0" * (MAX_DIGITS + 1)
_CHUNK = 64 * 1024


class ShapeError(ValueError):
    """Text that is too costly or impossible to read; the text of the error says why."""


def check_encoding(text: bytes) -> None:
    """Raise ShapeError unless the bytes are UTF-8 (without keeping a decoded copy)."""
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    try:
        for start in range(0, len(text), _CHUNK):
            decoder.decode(view[start : start + _CHUNK])
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise ShapeError("not UTF-8") from error


def check_shape(text: bytes) -> None:
    """Raise ShapeError if JSON text holds too many values, nests too deeply or has a number that Python refuses.

    What is not JSON may pass or fail: the decoder looks at it afterwards.
    """
    if len(text) < MAX_DEPTH:
        return
    marks = _outside_strings(text)
    if marks.count(b",") + marks.count(b"[") + marks.count(b"{") > MAX_VALUES:
        raise ShapeError(f"more than {MAX_VALUES} values")
    if max(accumulate(array("b", marks.translate(_STEP, b","))), default=0) > MAX_DEPTH:
        raise ShapeError(f"nested more than {MAX_DEPTH} deep")
    if _TOO_MANY_DIGITS in text.translate(_DIGIT_AS_ZERO):
        raise ShapeError(f"a number with more than {MAX_DIGITS} digits")


def _outside_strings(text: bytes) -> bytes:
    """The brackets, braces and commas of JSON text that are not part of a string."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most strings are a pair of quotes by now. Taking pairs out keeps the parity of quotes before every other mark.
    marks = text.translate(None, _NOT_A_MARK).replace(b'""', b"")
    return _STRING.sub(b"", marks) if b'"' in marks else marks
