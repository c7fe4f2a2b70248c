"""Who probably made a socket: every row against what it says, real libraries where they are here, any text for maps."""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MakeProc, Run, Start
from threadinfo.model import Descriptor, Details, Served, Socket
from threadinfo.proc import makers
from threadinfo.proc.makers import KNOWN, KnownSocket
from threadinfo.proc.reader import ProcDirectory

PID = 4242
LIBRARIES = {
    "libwebsockets": "libwebsockets.so.19",
    "libavahi-core": "libavahi-core.so.7.1.0",
    "libudev": "libudev.so.1.7.5",
    "libdbus": "libdbus-1.so.3.32.4",
    "libaudit": "libaudit.so.1.0.0",
    "libnl": "libnl-3.so.200.26.0",
    "libpcap": "libpcap.so.1.10.3",
    "glibc": "libc.so.6",
    "libsystemd": "libsystemd.so.0.35.0",
}
PEERS = ("/run/nscd/socket", "/dev/log", "/run/user/1000/bus")
ROWS = pytest.mark.parametrize("row", KNOWN, ids=lambda row: f"{row.library} {row.family} {row.remote or row.groups}")


def fitting(row: KnownSocket) -> Descriptor:
    """A descriptor that is exactly what the row says."""
    details: Details = {"close_on_exec": row.close_on_exec}
    if row.groups:
        details["groups"] = f"{max(row.groups):#x}"
    if row.has_library_port:
        details["port_id"] = PID | 3 << 22
    sock = Socket(
        family=row.family,
        type=row.type or "SOCK_RAW",
        protocol=row.protocol,
        remote=next((peer for peer in PEERS if row.remote and re.fullmatch(row.remote, peer)), None),
        bound=row.groups is not None,
        standing="unbound" if row.remote == "" else None,
    )
    served = (Served(PID + 1, "router", "poll"),)
    return Descriptor(
        fd=3, type="socket", target="socket:[1]", description="", details=details, socket=sock, served_by=served
    )


def maps(*names: str) -> str:
    return "".join(f"7f00-7f01 r-xp 0 08:01 5    /usr/lib/x86_64-linux-gnu/{name}\n" for name in names)


@ROWS
def test_infer_a_socket_like_the_row_is_the_rows(row: KnownSocket) -> None:
    mapped = makers.parse_mapped_names(maps(LIBRARIES[row.library]))
    inference = makers.infer(KNOWN, fitting(row), {PID}, mapped)
    assert inference is not None
    assert (inference.words, inference.confidence, inference.source) == (row.words, row.confidence, row.source)
    assert inference.evidence[-2:] == (f"{LIBRARIES[row.library]} is mapped", "thread router serves it")


@ROWS
def test_infer_without_the_library_or_with_another_flag_is_none(row: KnownSocket) -> None:
    descriptor = fitting(row)
    assert makers.infer([row], descriptor, {PID}, frozenset({"libother.so.1"})) is None
    other = descriptor.details | {"close_on_exec": not row.close_on_exec}
    mapped = frozenset({LIBRARIES[row.library]})
    assert makers.infer([row], msgspec.structs.replace(descriptor, details=other), {PID}, mapped) is None


@ROWS
def test_known_row_says_where_it_is_from(row: KnownSocket) -> None:
    assert "/" in row.source


def test_attach_makers_reads_no_maps_where_no_row_fits(make_proc: MakeProc) -> None:
    plain = Descriptor(fd=3, type="socket", target="socket:[1]", description="", socket=Socket(family="AF_INET"))
    with ProcDirectory(str(make_proc({"7": None}))) as proc, proc.directory("7") as process:
        assert makers.attach_makers(process, [plain]) == (plain,)


def test_infer_says_which_epoll_watches_where_no_thread_waits() -> None:
    row = KNOWN[0]
    descriptor = msgspec.structs.replace(fitting(row), served_by=())
    inference = makers.infer([row], descriptor, (), frozenset({"libwebsockets.so.18"}), {3: [5]})
    assert inference is not None
    assert inference.evidence[-1] == "epoll FD 5 watches it"


def test_parse_own_pids_in_every_namespace() -> None:
    assert makers.parse_own_pids("Name:\tx\nNSpid:\t4242\t7\n") == (4242, 7)
    assert makers.parse_own_pids("Name:\tx\n") == ()


@given(st.text())
def test_parse_mapped_names_any_text_gives_names_without_directories(text: str) -> None:
    assert all("/" not in name for name in makers.parse_mapped_names(text))


def test_parse_mapped_names_a_deleted_file_and_data_alone() -> None:
    text = maps("libudev.so.1 (deleted)") + maps("libpcap.so.1").replace("r-xp", "rw-p")
    assert makers.parse_mapped_names(text) == {"libudev.so.1"}


UDEV = """
import ctypes
udev = ctypes.CDLL("libudev.so.1")
for name in ("udev_new", "udev_monitor_new_from_netlink"):
    getattr(udev, name).restype = ctypes.c_void_p
monitor = ctypes.c_void_p(udev.udev_monitor_new_from_netlink(ctypes.c_void_p(udev.udev_new()), b"kernel"))
assert udev.udev_monitor_enable_receiving(monitor) == 0
"""
PCAP = """
import ctypes
pcap = ctypes.CDLL("libpcap.so.0.8")
pcap.pcap_open_live.restype = ctypes.c_void_p
assert pcap.pcap_open_live(b"lo", 65535, 0, 100, ctypes.create_string_buffer(512))
"""
JOURNAL = """
import ctypes
ctypes.CDLL("libsystemd.so.0").sd_journal_send(b"PRIORITY=7", None)
"""
NETLINK = """
import ctypes
netlink = ctypes.CDLL("libnl-3.so.200")
netlink.nl_socket_alloc.restype = ctypes.c_void_p
assert netlink.nl_connect(ctypes.c_void_p(netlink.nl_socket_alloc()), 0) == 0
"""


AUDIT = """
import ctypes
assert ctypes.CDLL("libaudit.so.1").audit_open() >= 0
"""


@pytest.mark.parametrize(
    ("library", "program"),
    [("audit", AUDIT), ("udev", UDEV), ("pcap", PCAP), ("systemd", JOURNAL), ("nl-3", NETLINK)],
)
def test_infer_real_library_is_named(library: str, program: str, start: Start, threadinfo: Run) -> None:
    if ctypes.util.find_library(library) is None or os.geteuid():
        pytest.skip(f"lib{library} is not here, or may not")
    process = start(sys.executable, "-c", f"{program}\nprint('ready', flush=True)\ninput()")
    (report,) = json.loads(threadinfo(process.pid, "--format", "json").stdout)["processes"]
    inferences = [found["socket"]["inference"] for found in report["descriptors"] if found["socket"]]
    assert "socket_bound_to_nothing" not in [finding["kind"] for finding in report["findings"]]
    assert f"lib{library}".removesuffix("-3") in [inference["library"] for inference in inferences if inference]
