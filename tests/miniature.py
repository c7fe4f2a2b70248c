"""A miniature /proc: files as the kernel writes them, for what cannot be made on a real machine."""

from __future__ import annotations

STAT = (
    "{pid} ({name}) {state} 1 1 1 0 -1 4194304 100 0 0 0 {user} {system} 0 0 20 0 {threads} 0 {start} 1000 25 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
STATUS = (
    "Name:\t{name}\nState:\tS (sleeping)\nTgid:\t{pid}\nPid:\t{pid}\nUid:\t0\t0\t0\t0\n"
    "VmSize:\t  472328 kB\nVmRSS:\t   14028 kB\nVmStk:\t     136 kB\nVmSwap:\t     512 kB\n"
)
ROLLUP = (
    "00400000-7ffd0000 ---p 00000000 00:00 0    [rollup]\n"
    "Rss:               14864 kB\nPss:               11490 kB\nPss_Dirty:           100 kB\n"
    "Swap:                512 kB\nSwapPss:             512 kB\n"
)
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max cpu time              unlimited            unlimited            seconds   \n"
    "Max open files            524288               524288               files     \n"
)


def stat(pid: int, name: str = "hydrogen", state: str = "S", *, user: int = 1, threads: int = 1) -> str:
    """A stat file; `user` is user time in clock ticks."""
    return STAT.format(pid=pid, name=name, state=state, user=user, system=0, threads=threads, start=100)


def process(pid: int = 1265598, name: str = "hydrogen", **changes: str | bytes | None) -> dict[str, str | bytes | None]:
    """A process of the script's sample by file; `changes` replaces files (double underscores for slashes)."""
    files: dict[str, str | bytes | None] = {
        "stat": "cpu 1 2 3\nbtime 1700000000\n",
        "uptime": "1000.00 2000.00\n",
        "meminfo": "MemTotal:       32000000 kB\nMemFree:        1000 kB\n",
        f"{pid}/stat": stat(pid, name),
        f"{pid}/status": STATUS.format(pid=pid, name=name),
        f"{pid}/comm": f"{name}\n",
        f"{pid}/cmdline": f"./{name}\0--serve\0",
        f"{pid}/exe": f"->/opt/{name}",
        f"{pid}/smaps_rollup": ROLLUP,
        f"{pid}/limits": LIMITS,
        f"{pid}/task/{pid}/stat": stat(pid, name),
        f"{pid}/fd": None,
        f"{pid}/fd/0": "->/dev/null",
        f"{pid}/fdinfo/0": "pos:\t0\nflags:\t0100000\nmnt_id:\t1\nino:\t3\n",
        f"{pid}/net": None,
        f"{pid}/auxv": (33).to_bytes(8, "little") + bytes(8),
    }
    for key, content in changes.items():
        path = f"{pid}/{key.replace('__', '/')}"
        if content is None:
            del files[path]
        else:
            files[path] = content
    return files
