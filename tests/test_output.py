"""Where the result goes: the names of our own descriptors, and standard streams that are closed or full."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from tests.reports import process, report, trace
from threadinfo.cli.output import OutputFile
from threadinfo.errors import OutputError
from threadinfo.render.escape import Printable
from threadinfo.render.json import render_json


def run_shell(script: str, *arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    """The command with arguments in a shell's redirections: `script` calls it "$@"."""
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "threadinfo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"])
def test_output_to_our_own_descriptor_is_written_to_it(name: str, tmp_path: Path) -> None:
    result = run_shell('"$@"', os.getpid(), "-o", name)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("=== Memory Footprint")


def test_output_link_below_dev_is_not_replaced_though_it_leads_to_a_file(tmp_path: Path) -> None:
    # As root, replacing it would leave the machine without /dev/stdout. Not by the command, lest it do so here.
    file = tmp_path / "file"
    with file.open("wb") as redirected:
        saved = os.dup(1)
        try:
            os.dup2(redirected.fileno(), 1)
            with OutputFile("/dev/stdout") as output:
                assert not output._is_new
                output.commit(Printable("all of it\n"))
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    assert file.read_text() == "all of it\n"


def test_output_to_a_descriptor_that_is_closed_is_said() -> None:
    with pytest.raises(OutputError, match="Bad file descriptor"):
        OutputFile("/proc/self/fd/999999")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root looks at SUDO_UID")
@pytest.mark.parametrize("uid", ["99999999999999", "9" * 5000])
def test_output_under_a_sudo_of_an_impossible_user_stays_ours(uid: str, threadinfo: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    result = threadinfo(os.getpid(), "-o", file, env=os.environ | {"SUDO_UID": uid})
    assert (result.returncode, result.stderr) == (0, "")
    assert file.stat().st_uid == 0
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_to_a_file_needs_no_standard_streams(streams: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert run_shell(f'"$@" {streams}', os.getpid(), "--format", "json", "-o", file).returncode == 0
    assert file.read_text().endswith("}\n")


def test_a_traced_report_in_a_file_needs_no_standard_output(tmp_path: Path) -> None:
    saved, file = tmp_path / "report.json", tmp_path / "report.txt"
    saved.write_text(render_json(report(process(trace=trace()))))
    result = run_shell('"$@" >&-', "show", saved, "-o", file)
    assert (result.returncode, result.stderr) == (0, "")
    assert "=== Trace Confidence ===" in file.read_text()


def test_a_closed_standard_stream_is_nobody_elses_number(tmp_path: Path) -> None:
    program = (
        "import os, threadinfo.cli.main as cli\n"
        "try: cli.main()\n"
        "finally: os.write(9, repr([os.readlink(f'/proc/self/fd/{n}') for n in range(3)]).encode())"
    )
    script = f"exec 9>{tmp_path}/fds <&- >&- 2>&-; exec '{sys.executable}' -c \"$0\" 1 -o /dev/null"
    subprocess.run(["sh", "-c", script, program], check=True, cwd=ROOT)
    assert (tmp_path / "fds").read_text() == repr(["/dev/null"] * 3)


def test_a_late_or_early_interrupt_is_no_traceback(tmp_path: Path) -> None:
    module = tmp_path / "threadinfo"
    module.mkdir()
    entry = (ROOT / "src" / "threadinfo" / "__main__.py").read_text()
    (module / "__main__.py").write_text(entry)
    (module / "__init__.py").write_text("")
    (module / "cli").mkdir()
    (module / "cli" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "threadinfo"]
    early = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}
    )
    assert (early.returncode, early.stderr) == (-signal.SIGINT, "")
    program = (
        "import os, signal, threadinfo.cli.main as cli\n"
        "cli._flush_or_drop = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-c", program, "1", "-o", "/dev/null"]
    late = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (late.returncode, late.stderr) == (-signal.SIGINT, "")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray, and become another user")


@pytest.fixture(params=["unnamed", "named"])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with files that have no name yet, and one without (as NFS, FAT and many FUSE ones)."""
    if request.param == "named":
        real = os.open

        def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refuse)
    return str(request.param)


@pytest.mark.parametrize("old", [None, "old"])
def test_output_appears_whole_and_its_owners_alone(files: str, old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "report"
    if old is not None:
        path.write_text(old)
    with OutputFile(str(path)) as output:
        assert [one.read_text() for one in tmp_path.iterdir()] == ([old] if old is not None else [])
        output.commit(Printable("new"))
    assert [(one.name, one.read_text(), stat.S_IMODE(one.stat().st_mode)) for one in tmp_path.iterdir()] == [
        ("report", "new", 0o600)
    ]


def test_output_that_is_not_committed_leaves_nothing(files: str, tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), OutputFile(str(tmp_path / "report")):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_take_the_name_leaves_nothing(files: str, tmp_path: Path) -> None:
    with OutputFile(str(tmp_path / "report")) as output:
        (tmp_path / "report").mkdir()
        with pytest.raises(OutputError, match="Is a directory"):
            output.commit(Printable("new"))
    assert [one.name for one in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("number", sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
def test_no_signal_leaves_a_temporary_file(number: int, tmp_path: Path) -> None:
    """It is sent while the new file has a name of its own; handlers are those that a program starts with."""
    program = (
        "import os, sys\n"
        "from threadinfo.cli.output import OutputFile\n"
        "rename = os.rename\n"
        "def now(*names, **directories):\n"
        "    os.kill(os.getpid(), int(sys.argv[2]))\n"
        "    rename(*names, **directories)\n"
        "os.rename = now\n"
        "with OutputFile(sys.argv[1]) as output: output.commit('new')\n"
    )
    path = tmp_path / "report"
    path.write_text("old")
    command = [sys.executable, "-c", program, str(path), str(number)]
    subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=60, start_new_session=True)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("report", "new")]


def test_output_to_a_fifo_without_a_reader_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OutputError, match="nobody reads"):
        OutputFile(str(tmp_path / "fifo"))


def test_output_to_our_own_fifo_waits_for_a_slow_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["wc", "-c", str(tmp_path / "fifo")], stdout=subprocess.PIPE, text=True) as reader:
        with open(tmp_path / "fifo", "w"), OutputFile(str(tmp_path / "fifo")) as output:
            output.commit(Printable("x" * 300_007))
        assert reader.stdout is not None
        assert reader.stdout.read().split()[0] == "300007"


def test_output_to_a_process_substitution_reaches_it(tmp_path: Path) -> None:
    script = f'"$@" -o >(cat > {tmp_path}/copy); while ! grep -q Note: {tmp_path}/copy; do :; done'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "threadinfo", str(os.getpid())]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert (tmp_path / "copy").read_text().startswith("=== Memory Footprint")


def test_output_path_may_lead_over_links_of_ours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("absolute/../absolute")
    with OutputFile(f"/proc/self/root{tmp_path}/relative/report") as output:
        output.commit(Printable("new"))
    assert (tmp_path / "real" / "report").read_text() == "new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="Too many levels"):
        OutputFile(str(tmp_path / "loop" / "report"))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A directory that anybody may write to, as /tmp is, and that anybody can reach."""
    directory = Path("/tmp") / f"threadinfo-{tmp_path.parent.name}-{tmp_path.name}"
    directory.mkdir()
    directory.chmod(0o1777)
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


@needs_root
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o700])
@pytest.mark.parametrize(("kind", "words"), [("fifo", "FIFO"), ("link", "link"), ("socket", "special file")])
def test_output_is_led_nowhere_by_another_user(mode: int, kind: str, words: str, shared: Path) -> None:
    """Whether the directory is everybody's, or the other user's own."""
    theirs = shared / "theirs"
    if kind == "fifo":
        os.mkfifo(theirs)
    elif kind == "link":
        theirs.symlink_to("/root/no-such-file")
    else:
        os.mknod(theirs, 0o600 | stat.S_IFSOCK)
    os.lchown(theirs, 65534, 65534)
    shared.chmod(mode)
    if mode == 0o700:
        os.chown(shared, 65534, 65534)
    with pytest.raises(OutputError, match=f"{words} of user 65534"):
        OutputFile(str(theirs))
    if kind == "link":
        with pytest.raises(OutputError, match="link of user 65534"):
            OutputFile(str(theirs / "report"))


@needs_root
def test_output_over_a_link_of_ours_replaces_the_link(shared: Path) -> None:
    (shared / "victim").write_text("victim")
    (shared / "link").symlink_to("victim")
    with OutputFile(str(shared / "link")) as output:
        output.commit(Printable("new"))
    assert ((shared / "victim").read_text(), (shared / "link").read_text()) == ("victim", "new")
    assert not (shared / "link").is_symlink()


@needs_root
def test_output_under_sudo_is_the_callers(files: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65533")
    with OutputFile(str(shared / "report")) as output:
        output.commit(Printable("new"))
    status = (shared / "report").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o600)


SWAPPER = """
import os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.chdir(sys.argv[1])
victim = sys.argv[2]
def fifo(): os.mkfifo("new"); return os.open("new", os.O_RDWR | os.O_NONBLOCK)
def link(): os.symlink(victim, "new")
def regular(): return os.open("new", os.O_CREAT | os.O_RDWR, 0o666)
def directory(): os.symlink(os.path.dirname(victim), "new")
def ours(): os.mkdir("new", 0o777)
name, kinds = ("report", (fifo, link, regular)) if sys.argv[3] == "file" else ("way", (directory, ours))
print("ready", flush=True)
turn = 0
while True:
    for make in kinds:
        turn += 1
        fd = make()
        if name == "way" and turn > 1: os.rename(name, f"old{turn}")
        os.rename("new", name)
        if fd is not None: os.close(fd)
"""


@needs_root
@pytest.mark.parametrize("owner", [0, 65534], ids=["everybodys-directory", "their-directory"])
@pytest.mark.parametrize("swapped", ["file", "way"])
def test_output_of_root_overwrites_nothing_while_another_user_swaps(owner: int, swapped: str, shared: Path) -> None:
    """A FIFO, a link to a file that only root may write, and a plain file take turns; or what leads there does."""
    victim = shared / "victim"
    victim.mkdir(0o700)
    for name in ("report", "file"):
        (victim / name).write_text("root's")
    os.chown(shared, owner, -1)
    if swapped == "file":
        shared.chmod(0o777)  # sticky, root could not be fooled by what it may not replace
    command = [sys.executable, "-c", SWAPPER, str(shared), str(victim / "file"), swapped]
    outcomes: set[str] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"ready\n"
        try:
            path = shared / ("report" if swapped == "file" else "way/report")
            runs = 0
            while runs < 211 or not {"written", "refused"} <= outcomes:  # they do take turns
                runs += 1
                assert runs < 100_000, outcomes
                try:
                    with OutputFile(str(path)) as output:
                        output.commit(Printable("report"))
                    outcomes.add("written")
                except OutputError as problem:
                    outcomes.add("refused" if "of user 65534" in str(problem) else "failed")
            assert swapper.poll() is None
        finally:
            swapper.kill()
    assert {name.name: name.read_text() for name in victim.iterdir()} == {"report": "root's", "file": "root's"}
    assert not [name for name in shared.iterdir() if name.name.startswith(".threadinfo")]
