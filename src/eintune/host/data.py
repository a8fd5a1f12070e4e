"""Data from files: typed, ranged and bounded by msgspec before anything uses it.

A file's layout is a `msgspec.Struct` (or any type that msgspec knows) made of the types here; what does not fit it is
one line that says where and why. Texts hold nothing that a terminal obeys, numbers are finite, plain data is shallow.
"""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from .printable import printable

T = TypeVar("T")
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
"""Controls, lone surrogates, and marks that hide a word or turn what follows."""
_CONTROLS_BUT_LINES = _CONTROLS.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f")

Name: TypeAlias = Annotated[str, Meta(max_length=512, pattern=rf"\A[^{_CONTROLS}]*\Z")]
"""A short text of one line."""
Text: TypeAlias = Annotated[str, Meta(max_length=4096, pattern=rf"\A[^{_CONTROLS}]*\Z")]
"""A text of one line."""
Lines: TypeAlias = Annotated[str, Meta(max_length=64 * 1024, pattern=rf"\A[^{_CONTROLS_BUT_LINES}]*\Z")]
"""A text of many lines."""
Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A sha256."""
Rank: TypeAlias = Annotated[str, Meta(max_length=16, pattern=r"\A[a-z][0-9]*\Z")]
Size: TypeAlias = Annotated[int, Meta(ge=1, le=2**40)]
"""Elements along a rank."""
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Finite: TypeAlias = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""A number; JSON has no NaN, and what has one is `finite_only`."""
Positive: TypeAlias = Annotated[float, Meta(gt=0.0, le=1e300)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e300)]
Seconds: TypeAlias = Annotated[float, Meta(ge=1e-15, le=1e9)]
Message: TypeAlias = Annotated[str, Meta(max_length=64 * 1024)]
"""What a tool said: anything; `printable` before it is shown."""

_Whole: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Scalar: TypeAlias = bool | _Whole | Finite | Text | None
_Few = Meta(max_length=256)
_List1: TypeAlias = Annotated[list[_Scalar], _Few]
_Table1: TypeAlias = Annotated[dict[Name, _Scalar], _Few]
_List2: TypeAlias = Annotated[list[_Scalar | _List1 | _Table1], _Few]
_Table2: TypeAlias = Annotated[dict[Name, _Scalar | _List1 | _Table1], _Few]
_List3: TypeAlias = Annotated[list[_Scalar | _List2 | _Table2], _Few]
_Table3: TypeAlias = Annotated[dict[Name, _Scalar | _List2 | _Table2], _Few]
Plain: TypeAlias = Annotated[dict[Name, _Scalar | _List3 | _Table3], _Few]
"""A table of numbers, texts, booleans, nulls, and lists or tables of those: four levels, 256 entries each."""


class BadData(ValueError):
    """Data that breaks a rule of the file that holds it; one line that says where and which."""


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A table with exactly the fields that it states (those with a default may be absent)."""


def from_json(raw: bytes | str, kind: type[T]) -> T:
    """What a JSON text holds, as `kind`. Raises BadData."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise BadData(fault(error)) from None


class _Format(msgspec.Struct):
    format: Any = None


def check_format(raw: bytes, wanted: int, advice: str = "") -> None:
    """Raises BadData unless a JSON text is a table whose `format` is the one wanted; so that a file of another version
    is said to be one before its fields are."""
    found = from_json(raw, _Format).format
    if type(found) is not int or found != wanted:
        raise BadData(f"must be of format {wanted}, but has format {printable(str(found)[:40])!r}{advice}")


def from_toml(raw: bytes, kind: type[T]) -> T:
    """What a TOML text holds, as `kind`. Raises BadData."""
    try:
        return converted(tomllib.loads(raw.decode("utf-8")), kind)
    except BadData:
        raise
    except (ValueError, RecursionError) as error:
        raise BadData(f"not TOML: {fault(error)}") from None


def converted(data: object, kind: type[T]) -> T:
    """Plain data in memory as `kind`. Raises BadData."""
    try:
        return msgspec.convert(finite_only(data), kind)
    except (msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise BadData(fault(error)) from None


def finite_only(data: Any) -> Any:
    """The data; raises BadData where it holds what is no number (TOML has `nan` and `inf`)."""
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not -1e300 <= item <= 1e300:
            raise BadData(f"a number must be finite, but got {item}")
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    return data


def fault(error: BaseException) -> str:
    """What was wrong, in one line of what may be printed: "`key.layout`: expected `str`, got `int`"."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    text = re.sub(r"`str` matching regex '(.*)'", _worded, " ".join(str(error).split()))
    if found := re.fullmatch(r"(.*) - at `\$\.?(.*)`", text):
        text = f"`{found[2]}`: {found[1][:1].lower()}{found[1][1:]}" if found[2] else found[1]
    elif text[1:2].islower():
        text = text[:1].lower() + text[1:]
    text = printable(text) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _worded(found: re.Match[str]) -> str:
    pattern = found.group(1)
    return "a text without control characters" if "x7f" in pattern else f"a text like {pattern[2:-2]}"
