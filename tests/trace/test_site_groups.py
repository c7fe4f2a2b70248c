"""Which ways to a call are one call site."""

from __future__ import annotations

from threadinfo.trace.stacks.site_groups import entry_point, group_sites, site_frames, site_library
from threadinfo.trace.stacks.unwinder import Frame, Stack


def frame(function: str | None, offset: int, module: str = "/usr/bin/server", *, is_library: bool = False) -> Frame:
    place = hash((function, module)) % (1 << 30) + offset
    return Frame(
        address=place,
        slot=None,
        function=function,
        offset=offset,
        module=module,
        module_offset=place,
        source=None,
        is_signal_frame=False,
        is_library_code=is_library,
    )


LIBC = frame("__open64", 0x40, "/lib/libc.so.6", is_library=True)
START = frame("start_thread", 0x10, "/lib/libc.so.6", is_library=True)


def stack(*frames: Frame, is_complete: bool = True) -> Stack:
    return Stack((LIBC, *frames, START) if is_complete else (LIBC, *frames), is_complete, None)


def groups(*stacks: Stack | None) -> set[frozenset[int]]:
    return {frozenset(site.numbers) for site in group_sites(dict(enumerate(stacks, 1)))}


def test_offsets_in_one_function_are_different_sites() -> None:
    main = frame("main", 1)
    assert groups(stack(frame("f", 1), main), stack(frame("f", 9), main), stack(frame("f", 1), main)) == {
        frozenset({1, 3}),
        frozenset({2}),
    }


def test_callers_of_a_wrapper_are_told_apart_but_not_what_lies_far_beyond() -> None:
    wrapper = frame("wrapper", 1)
    first, second = frame("first", 1), frame("second", 1)
    one, two = frame("loop", 1), frame("loop", 2)
    far, farther = frame("main", 1), frame("main", 2)
    assert groups(
        stack(wrapper, first, one, far),
        stack(wrapper, second, one, far),
        stack(wrapper, first, two, far),
        stack(wrapper, first, one, farther),
    ) == {frozenset({1, 4}), frozenset({2}), frozenset({3})}


def test_way_into_a_library_is_part_of_the_site() -> None:
    inside = [frame(name, 1, "/lib/libsql.so") for name in ("unix_open", "pager", "step", "exec", "api")]
    assert groups(stack(*inside, frame("load", 1)), stack(*inside, frame("save", 1))) == {
        frozenset({1}),
        frozenset({2}),
    }
    assert site_library(stack(*inside, frame("load", 1))) == "libsql.so"
    assert entry_point(stack(*inside, frame("load", 1))) == ("libsql.so", "api", "load")


def test_recursion_counts_once() -> None:
    again, main = frame("walk", 5), frame("main", 1)
    leaf = frame("walk", 3)
    assert groups(stack(leaf, again, main), stack(leaf, again, again, again, main)) == {frozenset({1, 2})}


def test_cut_stack_belongs_to_the_only_one_that_it_may_be() -> None:
    inner, outer, main = frame("inner", 1), frame("outer", 1), frame("main", 1)
    cut = stack(inner, is_complete=False)
    assert groups(stack(inner, outer, main), cut) == {frozenset({1, 2})}
    other = stack(inner, frame("another", 1), main)
    assert groups(stack(inner, outer, main), other, cut) == {frozenset({1}), frozenset({2}), frozenset({3})}


def test_runtime_of_a_language_is_not_the_program() -> None:
    go = stack(frame("syscall.Syscall6", 1), frame("os.OpenFile", 1), frame("main.load", 7), frame("main.main", 1))
    assert site_frames(go)[0].startswith("main.load+0x7 ")
    only_runtime = stack(frame("runtime.goexit", 1))
    assert site_frames(only_runtime)[0].startswith("runtime.goexit")


def test_unknown_stacks_are_one_site_without_frames() -> None:
    sites = group_sites({0: None, 5: None})
    assert [(site.numbers, site.stack) for site in sites] == [((0, 5), None)]
    assert site_frames(None) == ()
    assert site_library(None) is None


def test_frame_without_a_name_is_told_by_its_place_in_the_file() -> None:
    nameless = frame(None, 0)
    assert site_frames(stack(nameless)) == (f"{nameless.module_offset:#x} [server]",)
