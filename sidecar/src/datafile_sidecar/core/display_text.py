"""Text from outside, made safe to show: it can't move the cursor, break a line, or be endlessly long."""


def printable(text: str) -> str:
    """Escape every character that a terminal would not print as it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, limit: int) -> str:
    """Cut a text to at most `limit` characters, with an ellipsis as the last one where something is missing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
