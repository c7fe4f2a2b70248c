"""Compares our plain report with the script's on one stopped process, line by line.

`python -m tests.parity SCRIPT NAME` prints the figures for a process that is already stopped.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT, run_threadinfo


@dataclass(frozen=True)
class Difference:
    """A place where ours differs from the script on purpose; docs/differences.md shows the same table."""

    name: str
    script: str
    """Regular expression for the script's whole line."""
    ours: str
    """Regular expression for our whole line."""
    reason: str


_ROW = r"\d+ +"
DIFFERENCES = (
    Difference(
        "socket in no table",
        _ROW + r"\S+ +(std\w+: )?socket \(inode: \d+\)",
        _ROW + r"socket +(std\w+: )?(socket \((?!inode).*\)|Unix domain socket.*)",
        "The script knows four tables. Ours asks every table, then the protocol's name, then the socket itself.",
    ),
    Difference(
        "Unix socket",
        _ROW + r"\S+ +(std\w+: )?Unix domain socket.*",
        _ROW + r"socket +(std\w+: )?Unix domain socket.*",
        "grep finds the peer's line in the output of ss -x too: the script shows a star, or another socket's path.",
    ),
    Difference(
        "connected socket",
        _ROW + r"\S+ +(std\w+: )?socket \((TCP|UDP)6? port \d+( - [^)]*)?\)",
        _ROW + r"socket +(std\w+: )?socket \((TCP|UDP)6? port \d+( - [^)]*)?, [A-Z_0-9]+ with \S+\)",
        "An accepted connection looked like a listener: ours says state and peer.",
    ),
    Difference(
        "dual-stack listener",
        _ROW + r"\S+ +(std\w+: )?socket \(TCP6 port \d+( - [^)]*)?\)",
        _ROW + r"socket +(std\w+: )?socket \(TCP6 port \d+( - [^)]*)?, IPv4 too\)",
        "A listener on [::] serves IPv4 as well unless IPV6_V6ONLY is set.",
    ),
    Difference(
        "pipe, FIFO, directory, message queue, namespace",
        _ROW + r"(other|stdio) +(std\w+: )?.*",
        _ROW + r"(pipe|fifo|directory|mqueue|namespace|symlink|stdio) +(std\w+: )?.*",
        'The script calls them "other".',
    ),
    Difference(
        "deleted file",
        _ROW + r"\S+ +(std\w+: )?/.* \(deleted\)",
        _ROW + r"(file|stdio) +(std\w+: )?(deleted file: .* held\)|unnamed temporary file .* held\))",
        "A deleted file still holds its space: ours says how much.",
    ),
    Difference(
        "anonymous memory",
        _ROW + r"other +/(memfd:.*|secretmem) \(deleted\)",
        _ROW + r"memfd +(anonymous memory: .*|secret memory)",
        "The script looks for anon_inode:[memfd], which the kernel never writes.",
    ),
    Difference(
        "anonymous inode",
        _ROW + r"anon_inode +anonymous inode: .*",
        _ROW + r"anon_inode +.*",
        "inotify, fanotify, pidfd, io_uring, BPF and others have names of their own.",
    ),
    Difference(
        "file that the path does not show",
        _ROW + r"\S+ +(std\w+: )?(file: )?/.*",
        _ROW + r"(file|device) +(std\w+: )?(file: |socket file: )?/.*",
        "The script tests the path in its own mount namespace; ours asks the open file.",
    ),
)

# Told by the thread's number, which is the process's, and not by its form.
FIRST_THREAD = Difference(
    "CPU% of the first thread",
    r"(?!)",
    r"(?!)",
    "ps gives the first thread the CPU time of the whole process.",
)


@dataclass
class Comparison:
    """The figures of one comparison."""

    equal: int = 0
    moving: int = 0
    intended: Counter[str] = field(default_factory=Counter)
    broken_rows: int = 0
    unexplained: list[tuple[str, str]] = field(default_factory=list)

    @property
    def compared(self) -> int:
        return self.equal + self.moving + self.intended.total() + len(self.unexplained)

    def __str__(self) -> str:
        reasons = ", ".join(f"{name}: {count}" for name, count in self.intended.most_common())
        return (
            f"{self.compared} lines compared, {self.equal} equal, {self.moving} within the script's own two runs, "
            f"{self.intended.total()} intended to differ ({reasons}), {len(self.unexplained)} unexplained; "
            f"{self.broken_rows} lines that the script broke off its rows"
        )


def run_script(script: Path, name: str) -> str:
    """The script's report."""
    return subprocess.run(["bash", str(script), name], capture_output=True, text=True, check=True).stdout


def _pairs(script: list[str], ours: list[str], comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Lines that belong together: rows of the descriptor table by their number, all others in order."""
    header = "FD     Type       Description"
    split_script, split_ours = script.index(header), ours.index(header)
    yield from zip(script[:split_script], ours[:split_ours], strict=True)
    end_script, end_ours = script.index("=== Resource Limits ==="), ours.index("=== Resource Limits ===")
    rows = {}
    for line in script[split_script + 2 : end_script]:
        if re.match(r"\d+ +\S+ +\S", line):
            rows[line.split()[0]] = line
        elif line:
            comparison.broken_rows += 1
    our_rows = {line.split()[0]: line for line in ours[split_ours + 2 : end_ours] if line}
    for fd in sorted(rows.keys() | our_rows.keys(), key=int):
        yield rows.get(fd, "(no row)"), our_rows.get(fd, "(no row)")
    yield from zip(script[end_script:], ours[end_ours:], strict=True)


def _moves_within(before: str, ours: str, after: str) -> bool:
    """Equal but for the numbers, and ours between those of the script's two runs (CPU% is cut off).

    Pss changes whenever any process that shares a library comes or goes, so 5 % or two pages beside the two are let
    pass.
    """
    number = r"\d+(?:\.\d+)?"
    if re.sub(number, "#", before).split() != re.sub(number, "#", ours).split():
        return False
    triples = zip(*(map(float, re.findall(number, line)) for line in (before, ours, after)), strict=True)
    if before.startswith("Pss:"):
        return all(min(a, c) * 0.95 - 8 <= b <= max(a, c) * 1.05 + 8 for a, b, c in triples)
    return all(min(a, c) - 0.1 <= b <= max(a, c) + 0.1 for a, b, c in triples)


def compare(before: str, ours: str, after: str) -> Comparison:
    """Compares the texts of three runs on one stopped process: the script's, ours, the script's again."""
    comparison = Comparison()
    pid = before.partition("(PID: ")[2].partition(")")[0]
    again = {line.split()[0]: line for line in after.splitlines() if re.match(r"\d+ +[\d.]+ |Pss:", line)}
    for theirs, our_line in _pairs(before.splitlines(), ours.splitlines(), comparison):
        key = theirs.split(" ")[0]
        if theirs == our_line:
            comparison.equal += 1
        elif key in again and _moves_within(theirs, our_line, again[key]):
            comparison.moving += 1
        elif key == pid and _is_equal_but_for_cpu(theirs, our_line):
            comparison.intended[FIRST_THREAD.name] += 1
        elif difference := _difference(theirs, our_line):
            comparison.intended[difference.name] += 1
        else:
            comparison.unexplained.append((theirs, our_line))
    return comparison


def _is_equal_but_for_cpu(theirs: str, ours: str) -> bool:
    theirs_columns, our_columns = theirs.split(), ours.split()
    del theirs_columns[1], our_columns[1]
    return theirs_columns == our_columns


def _difference(theirs: str, ours: str) -> Difference | None:
    for difference in DIFFERENCES:
        if re.fullmatch(difference.script, theirs) and re.fullmatch(difference.ours, ours):
            return difference
    return None


def compare_with_script(script: Path, name: str) -> Comparison:
    """Runs script, ours, script; again when nothing but Pss is out of their range.

    Another process that shares a library may start or end between any two of the runs and move Pss by more than the
    script's two runs tell (libc's pages are everybody's). A Pss that is wrong is wrong every time.
    """
    for _ in range(_TRIES - 1):
        comparison = _compare_once(script, name)
        if not comparison.unexplained or any(not line.startswith("Pss:") for line, _ in comparison.unexplained):
            return comparison
    return _compare_once(script, name)


def _compare_once(script: Path, name: str) -> Comparison:
    """Script, ours, script.

    During the last run a second Python is alive, as ours was during its own: a target that is a Python program shares
    its pages with it, and has a smaller Pss for as long.
    """
    before = run_script(script, name)
    ours = run_threadinfo(name)
    assert ours.returncode == 0, ours.stderr
    sharer = [sys.executable, "-c", f"import {', '.join(_MODULES)}; print(flush=True); input()"]
    with subprocess.Popen(sharer, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as second:
        assert second.stdin is not None
        assert second.stdout is not None
        second.stdout.readline()
        after = run_script(script, name)
        second.stdin.write("\n")
    return compare(before, ours.stdout, after)


_TRIES = 5
_MODULES = ("ctypes", "psutil", "threadinfo.cli.main", "threadinfo.render.text.report")


if __name__ == "__main__":
    result = compare_with_script(Path(sys.argv[1]), sys.argv[2])
    print(result)
    for pair in result.unexplained:
        print(*pair, sep="\n  ours: ")
