"""What descriptors are: the one table of kinds that report, stream, totals and `--kind` go by. Pure.

A kind is found by what /proc/PID/fd/FD points to (proc_pid_fd(5)), by what the open file's inode is (inode(7)), or by
the call that made it, where that makes nothing else. The program in the kernel is given the same table.
"""

from __future__ import annotations

import stat
from typing import Literal, NamedTuple

KindName = Literal[
    "socket",
    "file",
    "directory",
    "symlink",
    "device",
    "terminal",
    "pipe",
    "fifo",
    "memfd",
    "memfd_secret",
    "mqueue",
    "namespace",
    "eventfd",
    "epoll",
    "timerfd",
    "signalfd",
    "inotify",
    "fanotify",
    "pidfd",
    "userfaultfd",
    "io_uring",
    "perf_event",
    "bpf_map",
    "bpf_program",
    "bpf_link",
    "bpf_iter",
    "bpf_btf",
    "landlock_ruleset",
    "seccomp_notify",
    "fs_context",
    "kvm",
    "sync_file",
    "iommufd",
    "anon_inode",
    "other",
]

ANONYMOUS = "anon_inode:"
"""What a link begins with that leads to an anonymous inode; what follows is the kernel's name for it."""


class DescriptorKind(NamedTuple):
    """One kind of descriptor."""

    name: KindName
    """`model.Descriptor.type`."""
    words: str
    """What it is."""
    links: tuple[str, ...] = ()
    """How a link in /proc/PID/fd begins; of an anonymous inode all of it."""
    modes: tuple[int, ...] = ()
    """The types of inode (S_IFMT) that it is, unless the path or the file system says more."""
    calls: tuple[str, ...] = ()
    """System calls that make it and nothing else."""
    column: str = "anon_inode"
    """What the plain report's column calls it: a word of the script's."""


def _anonymous(name: KindName, words: str, link: str, *calls: str) -> DescriptorKind:
    return DescriptorKind(name, words, (f"{ANONYMOUS}{link}",), (), calls)


_K = DescriptorKind
_SOCKET_CALLS = ("socket", "socketpair", "accept", "accept4", "io_uring socket", "io_uring accept")
_NAMESPACES = tuple(f"{name}:[" for name in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"))
KINDS = (
    _K("socket", "socket", ("socket:[",), (stat.S_IFSOCK,), _SOCKET_CALLS, "socket"),
    _K("file", "file", ("/",), (stat.S_IFREG,), (), "file"),
    _K("directory", "directory", (), (stat.S_IFDIR,), ("fsmount",), "directory"),
    _K("symlink", "symbolic link", (), (stat.S_IFLNK,), (), "symlink"),
    _K("device", "device", ("/dev/",), (stat.S_IFCHR, stat.S_IFBLK), (), "device"),
    _K("terminal", "terminal", ("/dev/pts/",), (), (), "device"),
    _K("pipe", "pipe", ("pipe:[",), (), ("pipe", "pipe2"), "pipe"),
    _K("fifo", "FIFO", (), (stat.S_IFIFO,), (), "fifo"),
    _K("memfd", "anonymous memory", ("/memfd:",), (), ("memfd_create",), "memfd"),
    _K("memfd_secret", "secret memory", ("/secretmem (deleted)",), (), ("memfd_secret",), "memfd"),
    _K("mqueue", "message queue", (f"{ANONYMOUS}[mqueue]",), (), ("mq_open",), "mqueue"),
    _K("namespace", "namespace", _NAMESPACES, (), (), "namespace"),
    _anonymous("eventfd", "event notification channel", "[eventfd]", "eventfd", "eventfd2"),
    _anonymous("epoll", "epoll instance (I/O event notification)", "[eventpoll]", "epoll_create", "epoll_create1"),
    _anonymous("timerfd", "timer notification", "[timerfd]", "timerfd_create"),
    _anonymous("signalfd", "signal notification", "[signalfd]", "signalfd", "signalfd4"),
    _anonymous("inotify", "file system watcher", "inotify", "inotify_init", "inotify_init1"),
    _anonymous("fanotify", "file access watcher (fanotify)", "[fanotify]", "fanotify_init"),
    _K(
        "pidfd",
        "process handle (pidfd)",
        ("pidfd:[", f"{ANONYMOUS}[pidfd]"),
        (),
        ("pidfd_open", "clone", "clone3", "getsockopt"),
    ),
    _anonymous("userfaultfd", "page fault handler (userfaultfd)", "[userfaultfd]", "userfaultfd"),
    _anonymous("io_uring", "io_uring instance", "[io_uring]", "io_uring_setup"),
    _anonymous("perf_event", "performance event", "[perf_event]", "perf_event_open"),
    _anonymous("bpf_map", "BPF map", "bpf-map"),
    _anonymous("bpf_program", "BPF program", "bpf-prog"),
    _anonymous("bpf_link", "BPF link", "bpf_link"),
    _anonymous("bpf_iter", "BPF iterator", "bpf_iter"),
    _anonymous("bpf_btf", "BPF type information", "btf"),
    _anonymous("landlock_ruleset", "Landlock ruleset", "[landlock-ruleset]", "landlock_create_ruleset"),
    _anonymous("seccomp_notify", "seccomp listener", "seccomp notify", "seccomp"),
    _anonymous("fs_context", "file system context", "[fscontext]", "fsopen", "fspick"),
    _anonymous("kvm", "KVM virtual machine", "kvm-vm"),
    _anonymous("sync_file", "sync file", "sync_file"),
    _anonymous("iommufd", "I/O memory context", "iommufd"),
    _K("anon_inode", "anonymous inode", (ANONYMOUS,)),
    _K("other", "of no known kind", (), (), (), "other"),
)

KIND_NAMES: tuple[KindName, ...] = tuple(kind.name for kind in KINDS)
BY_NAME = {kind.name: kind for kind in KINDS}
KIND_OF_CALL: dict[str, KindName] = {call: kind.name for kind in KINDS for call in kind.calls}
KIND_OF_MODE: dict[int, KindName] = {mode: kind.name for kind in KINDS for mode in kind.modes}
_BY_LINK = sorted(((link, kind) for kind in KINDS for link in kind.links), key=lambda one: -len(one[0]))
_BY_ANONYMOUS_LINK = {link: kind for link, kind in _BY_LINK if link.startswith(ANONYMOUS)}
_BY_PREFIX = tuple((link, kind) for link, kind in _BY_LINK if not link.startswith(ANONYMOUS))
ANONYMOUS_NAMES: dict[str, KindName] = {
    link.removeprefix(ANONYMOUS): kind.name for link, kind in _BY_ANONYMOUS_LINK.items() if link != ANONYMOUS
}
"""By the kernel's name of an anonymous inode."""


def kind_of_link(link: str) -> DescriptorKind:
    """By a link of /proc/PID/fd alone. A path may lie: what it leads to, the inode says."""
    if link.startswith(ANONYMOUS):
        return _BY_ANONYMOUS_LINK.get(link, BY_NAME["anon_inode"])
    for prefix, kind in _BY_PREFIX:
        if link.startswith(prefix):
            return kind
    return BY_NAME["other"]
