"""Call sites of the program: the ways to a call that are one place in the code to whoever reads it.

What made the call is never the C library's wrapper, nor that of a language's runtime; it is the code that called
these. Ways are one site if their innermost frames are the same: up to three of the innermost file, so that the
callers of a wrapper of the program's own are told apart, and the one that called into that file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from threadinfo.trace.stacks.unwinder import Frame, Stack

_FRAMES_OF_A_FILE = 3
_MOST_SHOWN = 32

_RUNTIMES = re.compile(
    r"(internal|runtime|syscall|os|net|sync|io|bufio)[./]"  # Go: https://pkg.go.dev/std
    r"|<?(std|core|alloc)::|_ZN(K?St|3std|4core)"  # C++ and Rust
    r"|_R[^C]*Cs[0-9A-Za-z]+_(3std|4core|5alloc)"  # Rust's newer mangling
    r"|_{2,3}interceptor_"  # of the sanitizers
)
"""How the names of functions begin that stand between a program and the system."""

_Place = tuple[str, int]


class Site(NamedTuple):
    """A call site of the program."""

    numbers: tuple[int, ...]
    """Of the copied stacks that lead to it."""
    stack: Stack | None
    """One of the ways, the most complete; None: these stacks are not known."""


def group_sites(stacks: Mapping[int, Stack | None]) -> list[Site]:
    """The sites of some numbers; those without a stack are one site."""
    groups: dict[tuple[_Place, ...], list[int]] = {}
    keys: dict[int, tuple[_Place, ...]] = {}
    for number, stack in stacks.items():
        if id(stack) not in keys:  # many numbers share a stack
            keys[id(stack)] = _key(stack)
        groups.setdefault(keys[id(stack)], []).append(number)
    for key in [key for key in groups if key]:
        whole = [other for other in groups if len(other) > len(key) and other[: len(key)] == key]
        # A copy may have ended before the frames did that tell the callers apart.
        is_cut = not any(stack.is_complete for number in groups[key] if (stack := stacks[number]) is not None)
        if len(whole) == 1 and is_cut:
            groups[whole[0]] += groups.pop(key)
    return [Site(tuple(group), _most_complete(group, stacks)) for group in groups.values()]


def _most_complete(numbers: Sequence[int], stacks: Mapping[int, Stack | None]) -> Stack | None:
    known = [stack for number in numbers if (stack := stacks[number]) is not None]
    return max(known, key=lambda stack: (stack.is_complete, len(stack.frames)), default=None)


def _key(stack: Stack | None) -> tuple[_Place, ...]:
    places: list[_Place] = []
    for frame in own_frames(stack) if stack else ():
        if places and frame.module != places[0][0]:
            places.append((frame.module, frame.module_offset))
            break
        if len(places) < _FRAMES_OF_A_FILE:
            places.append((frame.module, frame.module_offset))
    return tuple(places)


def own_frames(stack: Stack) -> list[Frame]:
    """The program's and its libraries' frames, innermost first: without the C library's, and repeats only once.

    Where there are no others, the C library's.
    """
    frames = [
        frame
        for frame in stack.frames
        if not frame.is_library_code and not frame.is_signal_frame and frame.function != "_start"
    ]
    chosen = [frame for frame in frames if not _RUNTIMES.match(frame.function or "")] or frames
    chosen = chosen or list(stack.frames)  # the C library's own doing: its loader, its threads
    return [frame for index, frame in enumerate(chosen) if not index or frame.address != chosen[index - 1].address]


def site_frames(stack: Stack | None) -> tuple[str, ...]:
    """What is shown of a site's stack."""
    return format_frames(own_frames(stack)) if stack else ()


def site_library(stack: Stack | None) -> str | None:
    """The name of the file that made the call, or called the C library to make it."""
    frames = own_frames(stack) if stack else []
    return posixpath.basename(frames[0].module) or None if frames else None


def format_frames(frames: Sequence[Frame]) -> tuple[str, ...]:
    """``function+0x12 [library] file.c:12``, innermost first; what is beyond the thirtieth is left out."""
    shown = tuple(_format_frame(frame) for frame in frames[:_MOST_SHOWN])
    return (*shown, f"... {len(frames) - _MOST_SHOWN} more") if len(frames) > _MOST_SHOWN else shown


def _format_frame(frame: Frame) -> str:
    where = posixpath.basename(frame.module) or ("JIT" if frame.function else "no file")
    name = f"{frame.function}+{frame.offset or 0:#x}" if frame.function else f"{frame.module_offset:#x}"
    return f"{name} [{where}]" + (f" {frame.source}" if frame.source else "")


class EntryPoint(NamedTuple):
    """Where a program called the library that made the call."""

    library: str | None
    """None: the program's own file made it."""
    function: str | None
    """The library's function that was called from outside it."""
    caller: str | None
    """The function that called it."""

    def words(self) -> str | None:
        """``libwebsockets.so.17's lws_create_context, called from start_server``; None where nothing is known."""
        if self.function is None:
            return None
        is_named = self.library is not None and not self.function.startswith(f"{self.library}+")
        made = f"{self.library}'s {self.function}" if is_named else self.function
        return f"{made}, called from {self.caller}" if self.caller else made


def entry_point(stack: Stack) -> EntryPoint:
    """Of the innermost file that is not the C library."""
    frames = own_frames(stack)
    if not frames:
        return EntryPoint(None, None, None)
    inside = 1
    while inside < len(frames) and frames[inside].module == frames[0].module:
        inside += 1
    if inside == len(frames):  # no other file called it
        caller = _name(frames[1]) if len(frames) > 1 else None
        return EntryPoint(None, _name(frames[0]), caller)
    library = posixpath.basename(frames[0].module) or None
    return EntryPoint(library, _name(frames[inside - 1]), _name(frames[inside]))


def _name(frame: Frame) -> str:
    return frame.function or f"{posixpath.basename(frame.module) or 'no file'}+{frame.module_offset:#x}"
