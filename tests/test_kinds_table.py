"""The one table of kinds: whole, without contradictions, and what `--kind` takes."""

from __future__ import annotations

import stat
from collections import Counter
from typing import get_args

import pytest

from tests.conftest import Run
from threadinfo.descriptor_kinds import ANONYMOUS_NAMES, KIND_NAMES, KINDS, KindName, kind_of_link
from threadinfo.trace.descriptors.calls import CODES
from threadinfo.trace.descriptors.type_codes import ANONYMOUS_CODES, TYPE_CODES, TYPE_NAMES, code_of_link


def test_every_kind_has_a_name_and_each_link_mode_and_call_is_of_one_kind() -> None:
    assert get_args(KindName) == KIND_NAMES
    for column in ([kind.name] for kind in KINDS), (kind.links for kind in KINDS), (kind.modes for kind in KINDS):
        assert [one for one, count in Counter(one for each in column for one in each).items() if count > 1] == []
    calls = [call for kind in KINDS for call in kind.calls]
    assert len(set(calls)) == len(calls)
    assert set(calls) <= set(CODES)


def test_the_kernels_side_has_room_and_tells_the_names_apart() -> None:
    assert len(TYPE_NAMES) <= TYPE_CODES
    assert len(ANONYMOUS_CODES) == len(ANONYMOUS_NAMES) > 20


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        ("socket:[7]", "socket"),
        ("pipe:[7]", "pipe"),
        ("pidfd:[7]", "pidfd"),
        ("anon_inode:[pidfd]", "pidfd"),
        ("anon_inode:bpf-map", "bpf_map"),
        ("anon_inode:bpf-mapping", "anon_inode"),
        ("anon_inode:[nobody knows]", "anon_inode"),
        ("net:[4026531840]", "namespace"),
        ("/dev/pts/0", "terminal"),
        ("/dev/null", "device"),
        ("/memfd:name (deleted)", "memfd"),
        ("/tmp/x", "file"),
        ("unheard of", "other"),
        ("", "other"),
    ],
)
def test_kind_of_link(link: str, kind: str) -> None:
    assert kind_of_link(link).name == kind


def test_a_path_is_left_to_its_inode() -> None:
    assert [code_of_link(link) for link in ("/tmp/x", "/dev/null", "/dev/pts/0", "unheard of")] == [0, 0, 0, 0]
    assert TYPE_NAMES[code_of_link("anon_inode:[landlock-ruleset]")] == "landlock_ruleset"


def test_every_mode_has_a_kind() -> None:
    modes = {mode for kind in KINDS for mode in kind.modes}
    assert modes == {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}


@pytest.mark.parametrize(("word", "nearest"), [("sockets", "socket"), ("bpfmap", "bpf_map"), ("EventFD", "eventfd")])
def test_an_unknown_kind_is_a_usage_error_that_names_the_nearest(word: str, nearest: str, threadinfo: Run) -> None:
    result = threadinfo("trace", "1", "--kind", word)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"The nearest is '{nearest}'." in result.stderr


@pytest.mark.parametrize("word", ["bogus", "", "\x1b[31m", "x" * 300])
def test_whatever_is_not_a_kind_is_refused(word: str, threadinfo: Run) -> None:
    result = threadinfo("trace", "1", "--kind", word)
    assert (result.returncode, result.stdout) == (2, "")
    assert "\x1b" not in result.stderr
