"""What `threadinfo top` takes of a CPU: 100 threads, 1,000 descriptors, a terminal of 120x40, refreshed every second.

Times are utime and stime of the process (proc_pid_stat(5)), its child that unwinds stacks included, over 30 s after its
start. As root: traced, and without; otherwise without.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTLE_SECONDS, MEASURED_SECONDS = 6, 30
COLUMNS, LINES = 120, 40


def drain(terminal: int) -> None:
    """Reads what is drawn, until the end."""
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:  # it hung up
        return


def cpu_seconds(pid: int) -> float:
    """Of a process and its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


def measure(target: int, *options: str) -> float:
    """Percent of one CPU."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", "threadinfo", "top", str(target), *options])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
    threading.Thread(target=drain, args=(terminal,), daemon=True).start()
    time.sleep(SETTLE_SECONDS)
    began, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(MEASURED_SECONDS)
    percent = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - began)
    os.write(terminal, b"q")
    os.waitpid(pid, 0)
    return percent


def main() -> None:
    """Starts the workload and measures."""
    command = [sys.executable, str(ROOT / "tests" / "workloads" / "lively.py"), "lively", "100", "1000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as workload:
        assert workload.stdout is not None
        workload.stdout.readline()
        if not os.geteuid():
            print(f"top, traced:         {measure(workload.pid):4.1f} % of a CPU")
        print(f"top, without a trace: {measure(workload.pid, '--no-trace'):3.1f} % of a CPU")
        workload.terminate()


if __name__ == "__main__":
    main()
