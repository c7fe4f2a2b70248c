"""Values of the model with a string of our choice wherever a string can be, made from the model's own types."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import msgspec

_NUMBERS: dict[type, Any] = {int: 7, float: 1.5, bool: True}


def plant(kind: Any, text: str, turn: int = 0) -> Any:
    """A value of a type in which every string is `text`, every sequence and mapping has an element, nothing is None.

    `turn` chooses among the members of a Literal and of a union.
    """
    if isinstance(kind, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        kind = kind.__value__
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is str:
        return text
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{field: plant(hints[field], text, turn) for field in kind.__struct_fields__})
    if origin is Literal:
        return arguments[turn % len(arguments)]
    if origin in {typing.Union, types.UnionType}:
        members = [argument for argument in arguments if argument is not type(None)]
        return plant(members[turn % len(members)], text, turn)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return tuple(plant(argument, text, turn) for argument in arguments)
    if origin in {tuple, list, frozenset} or origin is Sequence:
        element = plant(arguments[0], text, turn)
        return frozenset([element]) if origin is frozenset else (element,) if origin is tuple else [element]
    if origin is dict or origin is Mapping:
        return {plant(arguments[0], text, turn): plant(arguments[1], text, turn)}
    raise TypeError(f"{kind!r} is a type that no test plants anything in")


def string_count(value: Any, text: str) -> int:
    """How often it was planted."""
    if isinstance(value, str):
        return value == text
    if isinstance(value, msgspec.Struct):
        return sum(string_count(getattr(value, field), text) for field in value.__struct_fields__)
    if isinstance(value, dict):
        return sum(string_count(key, text) + string_count(item, text) for key, item in value.items())
    return sum(string_count(item, text) for item in value) if isinstance(value, tuple | list | frozenset) else 0
