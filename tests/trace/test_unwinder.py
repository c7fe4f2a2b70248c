"""Stacks of real processes, whose frames are known, and of files made to harm whoever reads them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.conftest import ROOT, WORKLOADS, Start
from tests.stack_samples import open_mapping, read_maps, take_sample
from threadinfo.errors import NotAvailableError
from threadinfo.trace.stacks import messages as wire
from threadinfo.trace.stacks import unwinder as module
from threadinfo.trace.stacks.code_layout import parse_layout
from threadinfo.trace.stacks.unwinder import Sample, Stack, Unwinder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="/proc/PID/map_files is root's")
AS_OF_A_DISTRIBUTION = ("-O2", "-fomit-frame-pointer")


def build(directory: Path, *options: str, library_options: tuple[str, ...] = ()) -> Path:
    """The workload with its stripped library, in a directory of its own."""
    library, program = directory / "libstack.so", directory / "stacks"
    shared: list[str | Path] = ["cc", *AS_OF_A_DISTRIBUTION, "-shared", "-fPIC", "-s", *library_options]
    subprocess.run([*shared, "-o", library, WORKLOADS / "stack_library.c"], check=True)
    linked: list[str | Path] = [
        "-DWITH_LIBRARY",
        WORKLOADS / "stacks.c",
        library,
        f"-Wl,-rpath,{directory}",
        "-pthread",
    ]
    subprocess.run(["cc", *AS_OF_A_DISTRIBUTION, *options, "-o", program, *linked], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("stacks"), "-g")


@pytest.fixture
def unwinder() -> Iterator[Unwinder]:
    with Unwinder(open_mapping) as made:
        yield made


@pytest.fixture(autouse=True)
def _kill_those_that_stop_again(start: Start) -> Iterator[None]:
    """Before `start` asks them to end, which they would not notice."""
    yield
    while Stopped.started:
        Stopped.started.pop().kill()


class Stopped:
    """A workload that has stopped itself, and the return address of `stop_here` as it says itself."""

    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid
        self.started.append(process)
        self._wait()

    def _wait(self) -> None:
        assert self.process.stdout is not None
        self.return_address = int(self.process.stdout.readline(), 16)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def go_on(self) -> None:
        """To the next stop."""
        self.process.send_signal(signal.SIGCONT)
        self._wait()

    def sample(self, stack_bytes: int = 8192) -> Sample:
        """Of its newest thread."""
        return take_sample(self.pid, max(map(int, os.listdir(f"/proc/{self.pid}/task"))), stack_bytes)

    def unwind(self, unwinder: Unwinder, stack_bytes: int = 8192) -> Stack:
        (stack,) = unwinder.unwind(self.pid, read_maps(self.pid), [self.sample(stack_bytes)])
        return stack


def functions(stack: Stack) -> list[str | None]:
    return [frame.function for frame in stack.frames]


# What a stack says.


def test_stack_of_a_program_without_frame_pointers_has_every_caller(
    start: Start, program: Path, unwinder: Unwinder
) -> None:
    target = Stopped(start(program, "wrapper"))
    stack = target.unwind(unwinder)
    assert functions(stack)[:5] == ["syscall", "stop_here", "wrapper", "caller_of_wrapper", "main"]
    assert (functions(stack)[-1], stack.is_complete, stack.problem) == ("_start", True, None)
    assert stack.frames[2].address == target.return_address
    assert stack.frames[2].module == str(program)
    assert (stack.frames[2].source or "").startswith("stacks.c:")
    assert [frame.is_library_code for frame in stack.frames[:5]] == [True, False, False, False, False]


def test_address_in_the_file_is_what_addr2line_wants(start: Start, program: Path, unwinder: Unwinder) -> None:
    frame = Stopped(start(program, "wrapper")).unwind(unwinder).frames[2]
    command: list[str | Path] = ["addr2line", "-f", "-e", program, hex(frame.module_offset - 1)]
    function, line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    assert (function, line.rpartition("/")[2].split(" ")[0]) == (frame.function, frame.source)


def test_slot_holds_the_return_address_into_the_caller(start: Start, program: Path, unwinder: Unwinder) -> None:
    target = Stopped(start(program, "wrapper"))
    stack = target.unwind(unwinder)
    with open(f"/proc/{target.pid}/mem", "rb", buffering=0) as memory:
        for frame, caller in zip(stack.frames, stack.frames[1:], strict=False):
            assert frame.slot is not None
            memory.seek(frame.slot)
            assert int.from_bytes(memory.read(8), "little") == caller.address
    assert stack.frames[-1].slot is None


def test_two_calls_in_one_function_have_different_addresses(start: Start, program: Path, unwinder: Unwinder) -> None:
    target = Stopped(start(program, "sites"))
    first = target.unwind(unwinder)
    target.go_on()
    second = target.unwind(unwinder)
    assert first.is_complete
    assert second.is_complete
    for stack in (first, second):
        assert functions(stack)[:5] == ["syscall", "stop_here", None, "exported_two_sites", "main"]
    assert first.frames[2].slot == second.frames[2].slot
    assert first.frames[3].address != second.frames[3].address


def test_function_that_a_stripped_library_does_not_export_has_no_name(
    start: Start, program: Path, unwinder: Unwinder
) -> None:
    target = Stopped(start(program, "sites"))
    hidden = target.unwind(unwinder).frames[2]
    assert (hidden.function, hidden.offset, hidden.source) == (None, None, None)
    assert (hidden.address, hidden.module) == (target.return_address, str(program.parent / "libstack.so"))
    assert hidden.module_offset > 0


def test_recursion_has_as_many_frames_as_calls(start: Start, program: Path, unwinder: Unwinder) -> None:
    stack = Stopped(start(program, "recursion")).unwind(unwinder)
    assert functions(stack).count("exported_recursion") == 20
    assert stack.is_complete


def test_stack_in_a_signal_handler_goes_on_in_what_it_interrupted(
    start: Start, program: Path, unwinder: Unwinder
) -> None:
    stack = Stopped(start(program, "signal")).unwind(unwinder)
    names = functions(stack)
    at = [frame.is_signal_frame for frame in stack.frames].index(True)
    assert names[1:at] == ["stop_here", "on_signal"]
    assert names.index("interrupted") < names.index("main")
    assert at < names.index("interrupted")
    assert stack.frames[at].slot is None
    assert stack.is_complete


def test_thread_is_complete_at_its_start_without_debug_symbols(
    start: Start, program: Path, unwinder: Unwinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadinfo.trace.stacks.debug_files._open_of_host", lambda _: None)
    stack = Stopped(start(program, "thread")).unwind(unwinder)
    assert functions(stack)[1:3] == ["stop_here", "in_thread"]
    assert functions(stack)[3] is None, "start_thread is not exported, so nothing tells its name"
    assert (stack.is_complete, stack.problem) == (True, None)


def test_static_program_is_told_from_its_c_library_by_names(start: Start, tmp_path: Path, unwinder: Unwinder) -> None:
    static = tmp_path / "static"
    subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", static, WORKLOADS / "stacks.c"], check=True)
    for what in ("wrapper", "thread"):
        stack = Stopped(start(static, what)).unwind(unwinder)
        assert stack.is_complete
        ours = [frame.function for frame in stack.frames if not frame.is_library_code]
        expected = (
            ["stop_here", "wrapper", "caller_of_wrapper", "main"] if what == "wrapper" else ["stop_here", "in_thread"]
        )
        assert ours == expected


def test_library_that_was_replaced_meanwhile_is_read_as_it_was(
    start: Start, tmp_path: Path, unwinder: Unwinder
) -> None:
    target = Stopped(start(build(tmp_path), "recursion"))
    library = tmp_path / "libstack.so"
    library.unlink()
    library.write_bytes(b"\x7fELF" + b"another" * 1000)
    stack = target.unwind(unwinder)
    assert functions(stack).count("exported_recursion") == 20
    assert stack.frames[2].module == f"{library} (deleted)"
    assert stack.is_complete


def test_name_of_a_c_plus_plus_function_is_readable(start: Start, tmp_path: Path, unwinder: Unwinder) -> None:
    name = "_ZN5space5Thing4stopEl"
    program = build(tmp_path, f"-Dexported_recursion={name}", library_options=(f"-Dexported_recursion={name}",))
    stack = Stopped(start(program, "recursion")).unwind(unwinder)
    assert functions(stack)[2:22] == ["space::Thing::stop(long)"] * 20


# What a stack does not say, and says so.


def test_copy_that_is_too_short_says_so(start: Start, program: Path, unwinder: Unwinder) -> None:
    stack = Stopped(start(program, "recursion")).unwind(unwinder, stack_bytes=256)
    assert 2 < len(stack.frames) < 20
    assert not stack.is_complete
    assert stack.problem == "it goes on outside the 256 bytes that were copied"


def test_library_that_cannot_be_read_ends_the_stack(start: Start, program: Path) -> None:
    target = Stopped(start(program, "sites"))
    library = next(m for m in parse_layout(read_maps(target.pid)).modules if m.path.endswith("libstack.so"))

    def open_others(pid: int, mapping: str) -> int | None:
        return None if mapping == library.mapping else open_mapping(pid, mapping)

    with Unwinder(open_others) as unwinder:
        stack = target.unwind(unwinder)
    assert functions(stack)[:3] == ["syscall", "stop_here", None]
    assert not stack.is_complete
    assert f"{library.path}" in (stack.problem or "")


@pytest.mark.parametrize("place", ["anywhere", "behind a library"])
def test_code_that_is_no_files_has_no_module_and_a_problem(start: Start, unwinder: Unwinder, place: str) -> None:
    """A JIT's: a few instructions in anonymous memory that stop the process.

    libdw counts what lies behind a library as the library's. Wherever the kernel chooses, that is so now and then.
    """
    program = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]\n"
        "mappings = [line.split() for line in open('/proc/self/maps')]\n"
        "bounds = [[int(bound, 16) for bound in mapping[0].split('-')] for mapping in mappings]\n"
        "gaps = [end for (_, end), (start, _), mapping in zip(bounds, bounds[1:], mappings)\n"
        "        if start - end >= 0x4000 and '.so' in mapping[-1]]\n"
        "wanted, flags = (gaps[0] + 0x1000, 0x100022) if PLACE else (None, 0x22)\n"  # MAP_FIXED_NOREPLACE
        "address = libc.mmap(wanted, 4096, 7, flags, -1, 0)\n"
        "assert address % 4096 == 0 and wanted in (None, address)\n"
        # sub rsp, 8; getpid; kill(that, SIGSTOP); add rsp, 8; ret
        "code = bytes.fromhex('4883ec08b8270000000f0589c7be13000000b83e0000000f054883c408c3')\n"
        "ctypes.memmove(address, code, len(code))\n"
        "print('ready', flush=True); print(hex(address), flush=True)\n"
        "ctypes.CFUNCTYPE(None)(address)()\n"
    ).replace("PLACE", str(place != "anywhere"))
    target = Stopped(start(sys.executable, "-c", program))
    stack = target.unwind(unwinder)
    assert 0 < stack.frames[0].address - target.return_address < 30
    assert (stack.frames[0].module, stack.frames[0].function) == ("", None)
    assert not stack.is_complete
    assert "no file" in (stack.problem or "")


def test_32_bit_code_is_not_unwound(start: Start, program: Path, unwinder: Unwinder) -> None:
    target = Stopped(start(program, "wrapper"))
    tid, registers, stack = target.sample()
    registers = registers[: 17 * 8] + struct.pack("=Q", 0x23) + registers[18 * 8 :]
    (answer,) = unwinder.unwind(target.pid, read_maps(target.pid), [Sample(tid, registers, stack)])
    assert answer == Stack((), False, "32-bit code, which is not unwound")


# Files made to harm.


def hostile(target: Stopped, file: Path) -> Unwinder:
    """An unwinder that is given a file in place of the workload's library."""
    library = next(m for m in parse_layout(read_maps(target.pid)).modules if m.path.endswith("libstack.so"))

    def open_instead(pid: int, mapping: str) -> int | None:
        return os.open(file, os.O_RDONLY) if mapping == library.mapping else open_mapping(pid, mapping)

    return Unwinder(open_instead)


def unwind_both(start: Start, program: Path, bad: Stopped, unwinder: Unwinder) -> tuple[Stack, Stack, float]:
    """A stack that leads through the bad library, one of another process that does not, and the seconds it took."""
    good = Stopped(start(program, "wrapper"))
    started = time.monotonic()
    return bad.unwind(unwinder), good.unwind(unwinder), time.monotonic() - started


@pytest.mark.parametrize("seed", range(12))
def test_damaged_library_harms_only_the_stacks_through_it(
    start: Start, program: Path, tmp_path: Path, seed: int
) -> None:
    target = Stopped(start(program, "recursion"))
    chance, data = random.Random(seed), bytearray((program.parent / "libstack.so").read_bytes())
    for _ in range(20 * seed + 1):
        data[chance.randrange(64 if seed % 2 else 0, len(data))] = chance.randrange(256)
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(data)
    with hostile(target, damaged) as unwinder:
        bad, good, seconds = unwind_both(start, program, target, unwinder)
    assert good.is_complete
    assert bad.is_complete == (bad.problem is None)
    assert seconds < 10


def test_file_that_takes_too_long_is_given_up(start: Start, tmp_path: Path) -> None:
    """A name of 300 bytes that says twice what it said before, and that thirty times."""
    types = "0123456789ABCDEFGHIJKLMNOPQRST"  # the numbers that C++'s mangling gives to those named so far
    name = "_Z1f1AIiiE" + "".join(f"S_IS{last}_S{last}_E" for last in types)
    program = build(tmp_path, f"-Dexported_recursion={name}", library_options=(f"-Dexported_recursion={name}",))
    target = Stopped(start(program, "recursion"))
    with Unwinder(open_mapping) as unwinder:
        bad, good, seconds = unwind_both(start, program, target, unwinder)
    assert good.is_complete
    assert bad.frames == () or name in functions(bad)
    assert seconds < 5


def test_library_larger_than_the_memory_of_the_child_is_said_to_be_that(
    start: Start, program: Path, tmp_path: Path
) -> None:
    target, large = Stopped(start(program, "sites")), tmp_path / "large.so"
    shutil.copy(program.parent / "libstack.so", large)
    os.truncate(large, 2 << 30)  # the rest is a hole
    with hostile(target, large) as unwinder:
        first = target.unwind(unwinder)
        pid = unwinder.child_pid
        assert target.unwind(unwinder) == first
        assert unwinder.child_pid != pid, "a new child has room"
    library = program.parent / "libstack.so"
    assert first.problem == f"{library} finds no room in the memory that the unwinder may use"
    assert functions(first)[:2] == ["syscall", "stop_here"]


def test_name_without_end_is_cut(start: Start, tmp_path: Path, unwinder: Unwinder) -> None:
    name = "x" * 20_000
    program = build(tmp_path, f"-Dexported_recursion={name}", library_options=(f"-Dexported_recursion={name}",))
    stack = Stopped(start(program, "recursion")).unwind(unwinder)
    assert stack.frames[3].function == "x" * 4096
    assert stack.is_complete


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (signal.SIGSEGV, "the unwinder crashed (SIGSEGV), in "),
        (signal.SIGSTOP, "the unwinder was stopped after 2 s, in "),
    ],
)
def test_child_that_dies_or_hangs_is_replaced_and_the_file_dropped_the_second_time(
    start: Start, program: Path, number: signal.Signals, problem: str
) -> None:
    target = Stopped(start(program, "recursion"))
    library = next(m for m in parse_layout(read_maps(target.pid)).modules if m.path.endswith("libstack.so"))
    opened = 0

    def open_and_strike(pid: int, mapping: str) -> int | None:
        nonlocal opened
        if mapping == library.mapping:
            opened += 1
            assert striking.child_pid is not None
            os.kill(striking.child_pid, number)
        return open_mapping(pid, mapping)

    with Unwinder(open_and_strike) as striking:
        stacks = striking.unwind(target.pid, read_maps(target.pid), [target.sample()] * 5)
        assert striking.counters.restarts == opened == 2
    assert [stack.problem for stack in stacks[:2]] == [problem + library.path] * 2
    assert [functions(stack)[:2] for stack in stacks[2:]] == [["syscall", "stop_here"]] * 3


def test_library_that_is_cut_short_while_it_is_read_costs_one_stack(
    start: Start, program: Path, tmp_path: Path
) -> None:
    target, copy = Stopped(start(program, "sites")), tmp_path / "copy.so"
    shutil.copy(program.parent / "libstack.so", copy)
    with hostile(target, copy) as unwinder:
        assert target.unwind(unwinder).is_complete
        os.truncate(copy, 0)
        target.go_on()
        first, second = target.unwind(unwinder), target.unwind(unwinder)
    library = program.parent / "libstack.so"
    assert first == Stack((), False, f"the unwinder crashed (SIGBUS), in {library}")
    assert second.problem == f"{library} cannot be read"


def test_error_of_the_child_itself_is_told() -> None:
    starter = module._Starter()
    child = module._ChildProcess(starter)
    child.send(wire.HEADER.pack(wire.FORGET, 99))
    with pytest.raises(module._StoppedError, match=r"^the unwinder failed \(KeyError: 99\)$"):
        child.receive(time.monotonic() + 5)
    child.close()
    starter.close()


def test_child_that_cannot_start_is_a_problem_of_each_stack(
    start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Stopped(start(program, "wrapper"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with Unwinder(open_mapping) as unwinder:
        stacks = unwinder.unwind(target.pid, read_maps(target.pid), [target.sample()] * 10)
    assert stacks[0] == Stack((), False, "the unwinder cannot be started (No such file or directory)")
    assert [stack.frames for stack in stacks] == [()] * 10
    assert (unwinder.counters.failures, unwinder.counters.restarts) == (10, 6)


def test_unwinder_where_it_cannot_be_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "aarch64")
        with pytest.raises(NotAvailableError, match="aarch64"):
            Unwinder(open_mapping)

    def not_there(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", not_there)
    with pytest.raises(NotAvailableError) as caught:
        Unwinder(open_mapping)
    assert "libdw1" in (caught.value.remedy or "")


def test_child_that_talks_nonsense_is_not_believed(
    start: Start, program: Path, unwinder: Unwinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, chance = Stopped(start(program, "wrapper")), random.Random(7)
    samples, receive = [target.sample()] * 20, module._ChildProcess.receive

    def receive_wrongly(child: module._ChildProcess, deadline: float) -> bytes:
        data = bytearray(receive(child, deadline))
        if data[:1] != b"R" and chance.random() < 0.2:
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(8)] = chance.randbytes(chance.randrange(1, 8))
        return bytes(data)

    monkeypatch.setattr(module._ChildProcess, "receive", receive_wrongly)
    for _ in range(5):
        assert len(unwinder.unwind(target.pid, read_maps(target.pid), samples)) == 20
    assert unwinder.counters.restarts > 0
    monkeypatch.undo()
    with Unwinder(open_mapping) as another:  # the first one suspects files by now
        assert all(stack.is_complete for stack in another.unwind(target.pid, read_maps(target.pid), samples))


# The child.

ATTEMPTS = """
import ctypes, os, _socket, sys
sys.path.append(sys.argv[2])
from threadinfo.trace.stacks.confinement import confine
channel = _socket.socket(fileno=int(sys.argv[1]))
libc = ctypes.CDLL(None, use_errno=True)
held = confine()
def attempt(name, do):
    try:
        result = do()
    except OSError:
        result = None
    channel.send(f"{name} {'refused' if result in (None, -1) else 'possible'}".encode())
attempt("open", lambda: os.open("/etc/passwd", os.O_RDONLY))
attempt("open_proc", lambda: os.open("/proc/self/status", os.O_RDONLY))
attempt("create", lambda: os.open("/made", os.O_WRONLY | os.O_CREAT))
attempt("write", lambda: os.write(channel.fileno(), b"by write(2)"))
attempt("socket", lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM))
attempt("kill", lambda: os.kill(os.getppid(), 0) or 1)
attempt("setuid", lambda: os.setuid(0) or 1)
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/true", ["true"]) or 1)
attempt("ptrace", lambda: libc.ptrace(16, int(sys.argv[3]), None, None))
attempt("executable", lambda: None if libc.mprotect(ctypes.c_void_p(id(held) & -4096), 4096, 7) else 1)
attempt("unconfine", lambda: libc.prctl(4, 1, 0, 0, 0))
channel.send(("held " + ",".join(sorted(held))).encode())
channel.recv(1)
os._exit(0)
"""


def assert_nothing_is_in(pid: int) -> None:
    """The root directory of a process is a dead one of /proc: there are no files in that."""
    with pytest.raises(ProcessLookupError):
        os.listdir(f"/proc/{pid}/root/.")
    assert os.path.realpath(f"/proc/{pid}/root") != "/"


def attempts_of_a_confined_process(*, privileged: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What a confined process could do, by name, and the fields of its status that tell, as its parent sees them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    user = {} if privileged else {"user": 65534, "group": 65534, "extra_groups": []}
    python = os.path.realpath(sys.executable) if privileged else "/usr/bin/python3"
    with tempfile.TemporaryDirectory() as readable:
        os.chmod(readable, 0o755)
        shutil.copytree(ROOT / "src" / "threadinfo", Path(readable) / "threadinfo")
        command = [python, "-I", "-S", "-c", ATTEMPTS, theirs.fileno(), readable, os.getpid()]
        process = subprocess.Popen(list(map(str, command)), pass_fds=[theirs.fileno()], cwd="/", **user)  # type: ignore[call-overload]
        theirs.close()
        answers = {}
        with process, ours, contextlib.suppress(ConnectionError):
            while data := ours.recv(1000):
                name, _, result = data.decode().partition(" ")
                answers[name] = result
                if name == "held":
                    break
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            if "chroot" in answers["held"] and privileged:
                assert_nothing_is_in(process.pid)
            ours.send(b"x")
    assert "Max core file size        0" in limits
    assert "Max file size             0" in limits
    return answers, status


def test_confined_process_can_do_nothing() -> None:
    answers, status = attempts_of_a_confined_process(privileged=True)
    assert answers.pop("held") == "capabilities,chroot,network,no_new_privs,seccomp,user"
    assert set(answers.values()) == {"refused"}, answers
    assert len(answers) == 12
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[field], 16) == 0
    assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
    assert (status["Groups"].strip(), status["NoNewPrivs"], status["Seccomp"]) == ("", "1", "2")


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="an interpreter that any user may run")
def test_confined_process_of_an_ordinary_user_can_do_nothing_either() -> None:
    answers, status = attempts_of_a_confined_process(privileged=False)
    held = set(answers.pop("held").split(","))
    assert {"capabilities", "no_new_privs", "seccomp"} <= held
    assert set(answers.values()) == {"refused"}, answers
    assert int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_child_itself_is_confined(start: Start, program: Path, unwinder: Unwinder) -> None:
    Stopped(start(program, "wrapper")).unwind(unwinder)
    status = Path(f"/proc/{unwinder.child_pid}/status").read_text()
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status
    assert "\nCapBnd:\t0000000000000000\n" in status
    assert "\nUid:\t65534\t65534\t65534\t65534\n" in status
    assert unwinder.child_pid is not None
    assert_nothing_is_in(unwinder.child_pid)
    assert {"seccomp", "chroot", "user", "network"} <= unwinder.confinement


def test_child_ends_with_the_unwinder(start: Start, program: Path) -> None:
    with Unwinder(open_mapping) as unwinder:
        Stopped(start(program, "wrapper")).unwind(unwinder)
        pid = unwinder.child_pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert unwinder.child_pid is None


# Batches.


def test_unwinder_goes_on_after_an_interrupt(start: Start, program: Path) -> None:
    interruptions = iter([KeyboardInterrupt])

    def open_or_interrupt(pid: int, mapping: str) -> int | None:
        for interruption in interruptions:
            raise interruption
        return open_mapping(pid, mapping)

    target = Stopped(start(program, "wrapper"))
    with Unwinder(open_or_interrupt) as unwinder:
        with pytest.raises(KeyboardInterrupt):
            target.unwind(unwinder)
        assert target.unwind(unwinder).is_complete
        assert unwinder.counters.restarts == 0


def test_child_that_remembers_much_is_replaced_between_batches(
    start: Start, program: Path, unwinder: Unwinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Stopped(start(program, "wrapper"))
    assert target.unwind(unwinder).is_complete
    pid, child = unwinder.child_pid, unwinder._child
    assert child is not None
    monkeypatch.setattr(module, "_MAX_PLACES_BYTES", child.places_bytes + 100)
    assert target.unwind(unwinder).is_complete
    assert unwinder.child_pid != pid
    assert unwinder.counters.restarts == 0


def test_processes_beyond_what_is_remembered_are_unwound_too(
    start: Start, program: Path, unwinder: Unwinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_SPACES", 2)
    targets = [Stopped(start(program, "wrapper")) for _ in range(3)]
    assert all(target.unwind(unwinder).is_complete for target in targets * 2)
    assert unwinder.counters.restarts == 0


def test_batch_of_500_keeps_its_order_and_reads_no_file_again(start: Start, program: Path) -> None:
    opened = []

    def open_counted(pid: int, mapping: str) -> int | None:
        opened.append(mapping)
        return open_mapping(pid, mapping)

    target = Stopped(start(program, "sites"))
    first = target.sample()
    target.go_on()
    second = target.sample()
    with Unwinder(open_counted) as unwinder:
        stacks = unwinder.unwind(target.pid, read_maps(target.pid), [first, second] * 250)
        count = len(opened)
        again = unwinder.unwind(target.pid, read_maps(target.pid), [second] * 3)
        assert len(opened) == count == len(set(opened))
        assert (unwinder.counters.stacks, unwinder.counters.complete) == (503, 503)
    assert stacks[0] != stacks[1]
    assert stacks == stacks[:2] * 250
    assert again == [stacks[1]] * 3
