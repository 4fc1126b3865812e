"""What JSON text costs its readers, found out before anything is built from it, in memory that does not multiply.

Decoding is fast but trusting: a few megabytes of empty lists become a hundred megabytes of objects, in the sidecar and
then in each process of the app. So values and nesting are counted first, by passes that run in C over plain bytes.
"""

import codecs
import re
from array import array
from itertools import accumulate

from datafile_sidecar.core.datafile.errors import InvalidDatafileError

MAX_VALUES = 1_000_000
MAX_DEPTH = 100
MAX_DIGITS = 4300

_MARKS = b'"[]{},'
_ESCAPES = b"\\/bfnrtu"
_NEITHER_MARK_NOR_ESCAPE = bytes(set(range(256)) - set(_MARKS) - set(_ESCAPES))
_STRING = re.compile(rb'"[^"]*"')
_STEP = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_DIGIT_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY_DIGITS = b"0" * (MAX_DIGITS + 1)
_BLOCK = 64 * 1024


def check_encoding(text: bytes) -> None:
    """Raise InvalidDatafileError unless the bytes are UTF-8, without keeping a decoded copy.

    A last character that is cut goes unnoticed: no JSON ends in one.
    """
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    try:
        for start in range(0, len(text), _BLOCK):
            decoder.decode(view[start : start + _BLOCK])
    except UnicodeDecodeError as error:
        raise InvalidDatafileError("not UTF-8") from error


def check_shape(text: bytes) -> None:
    """Raise InvalidDatafileError if JSON text holds too many values, nests too deeply or has a number too long.

    What is not JSON may pass or fail: the decoder looks at it afterwards.
    """
    if len(text) < MAX_DEPTH:
        return
    marks = _outside_strings(text)
    if marks.count(b",") + marks.count(b"[") + marks.count(b"{") > MAX_VALUES:
        raise InvalidDatafileError(f"more than {MAX_VALUES} values")
    if max(accumulate(array("b", marks.translate(_STEP, b","))), default=0) > MAX_DEPTH:
        raise InvalidDatafileError(f"nested more than {MAX_DEPTH} deep")
    if _TOO_MANY_DIGITS in text.translate(_DIGIT_AS_ZERO):
        raise InvalidDatafileError(f"a number with more than {MAX_DIGITS} digits")


def _outside_strings(text: bytes) -> bytearray:
    """The brackets, braces and commas of JSON text that are not part of a string."""
    # A backslash and what it escapes must stay neighbours until the escaped quotes are gone.
    marks = text.translate(None, _NEITHER_MARK_NOR_ESCAPE)
    marks = marks.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _ESCAPES)
    # Most strings are a pair of quotes by now; taking pairs out keeps the parity of quotes before every other mark.
    return _without_strings(marks.replace(b'""', b""))


def _without_strings(marks: bytes) -> bytearray:
    """Take out what is between quotes, in blocks, so that millions of strings don't become millions of pieces."""
    kept = bytearray()
    open_quote = b""
    for start in range(0, len(marks), _BLOCK):
        block = _STRING.sub(b"", open_quote + marks[start : start + _BLOCK])
        outside, open_quote, _ = block.partition(b'"')
        kept += outside
    return kept
