"""Expressions of admission policies, evaluated by Google's CEL. What that library lacks is rewritten into what it has.

Kubernetes knows two things more: constructors such as `JSONPatch{op: "add"}`, which become maps here, and `transformList` with
two variables, which becomes `filter` and `map` over entries of index and item.
"""

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TOKEN = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[A-Za-z_]\w*|\d+|\s+|[^\w\s]")
_CONSTRUCTORS = {"Object", "JSONPatch"}
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPEN, _CLOSE = set("([{"), set(")]}")


def parse(expression: str) -> None:
    """Parse an expression as it stands in a policy. Raises RuntimeError with the place of a fault."""
    _environment(()).compile(expression, disable_check=True)


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """Return the value of an expression. Raises RuntimeError where it has a fault or uses another name, ValueError for an error."""
    compiled = _environment(tuple(sorted(names))).compile(_rewritten(expression))
    value = compiled.eval(data=dict(names))
    if value.type().name() == "ERROR":
        raise ValueError(f"{value.value()} in {expression}")
    return value.plain_value()


def _rewritten(expression: str) -> str:
    return "".join(_with_lists(_with_maps(_TOKEN.findall(expression))))


def _with_maps(tokens: Sequence[str]) -> list[str]:
    """Turn each constructor into a map: its name goes, and its fields are quoted."""
    done: list[str] = []
    opened: list[bool] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        after = _end_of_name(tokens, position)
        if token in _CONSTRUCTORS and tokens[after : after + 1] == ["{"]:
            position = after
            done.append("{")
            opened.append(True)
        elif token in _OPEN:
            opened.append(False)
            done.append(token)
        elif token in _CLOSE:
            opened.pop()
            done.append(token)
        elif opened and opened[-1] and _NAME.fullmatch(token) and _begins_entry(done):
            done.append(f'"{token}"')
        else:
            done.append(token)
        position += 1
    return done


def _end_of_name(tokens: Sequence[str], position: int) -> int:
    position += 1
    while tokens[position : position + 1] == ["."]:
        position += 2
    return position


def _begins_entry(before: Sequence[str]) -> bool:
    words = [token for token in before[-8:] if not token.isspace()]
    return words[-1] in {"{", ","} or (words[-1] == "?" and words[-2] in {"{", ","})


def _with_lists(tokens: Sequence[str]) -> list[str]:
    """Turn `x.transformList(i, c, condition, value)` into `x.entries().filter(entry, …).map(entry, …)`."""
    done: list[str] = []
    position = 0
    while position < len(tokens):
        if tokens[position] != "transformList":
            done.append(tokens[position])
            position += 1
            continue
        (index, item, condition, value), position = _arguments(tokens, position + 1)
        names = {"".join(index).strip(): "entry.index", "".join(item).strip(): "entry.item"}
        done += ["entries().filter(entry, ", *_renamed(condition, names), ").map(entry, ", *_renamed(value, names), ")"]
    return done


def _arguments(tokens: Sequence[str], position: int) -> tuple[list[list[str]], int]:
    """Split what stands between the parenthesis at this position and its partner; the position after it."""
    arguments: list[list[str]] = [[]]
    depth = 1
    while depth:
        position += 1
        token = tokens[position]
        depth += (token in _OPEN) - (token in _CLOSE)
        if token == "," and depth == 1:
            arguments.append([])
        elif depth:
            arguments[-1].append(token)
    return arguments, position + 1


def _renamed(tokens: Sequence[str], names: Mapping[str, str]) -> list[str]:
    befores = ["", *tokens]
    return [token if before == "." else names.get(token, token) for before, token in zip(befores, tokens, strict=False)]


@functools.cache
def _environment(names: tuple[str, ...]) -> Any:
    cel: Any = importlib.import_module("cel_expr_python.cel")
    extensions = [
        getattr(importlib.import_module(f"cel_expr_python.ext.ext_{name.lower()}"), f"Ext{name}")()
        for name in ("Optional", "Strings")
    ]
    entries = cel.Overload(
        "entries_of_list", return_type=cel.Type.LIST, parameters=[cel.Type.LIST], is_member=True, impl=_entries
    )
    escape = cel.Overload(
        "escape_key", return_type=cel.Type.STRING, parameters=[cel.Type.STRING], is_member=False, impl=_escape_key
    )
    return cel.NewEnv(
        variables=dict.fromkeys(names, cel.Type.DYN),
        extensions=extensions,
        functions=[cel.FunctionDecl("entries", [entries]), cel.FunctionDecl("jsonpatch.escapeKey", [escape])],
    )


def _entries(items: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"index": index, "item": item} for index, item in enumerate(items)]


def _escape_key(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
