"""What -v says of locks, watches and a TUN descriptor, from the details as JSON has them."""

from __future__ import annotations

import pytest

from threadinfo.model import Descriptor, Details
from threadinfo.render.text.details import format_details


def lock(kind: str, access: str, first: int, last: int | None) -> dict[str, int | str | None]:
    return {"kind": kind, "access": access, "first_byte": first, "last_byte": last}


def watch(path: str | None, inode: int = 7) -> dict[str, int | str | None]:
    return {"wd": 1, "events": "CREATE|DELETE", "inode": inode, "device": "254:0", "path": path}


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"locks": [lock("FLOCK", "write", 0, None)]}, "locked for writing (flock)"),
        ({"locks": [lock("POSIX", "read", 13, 19)]}, "locked for reading (fcntl), bytes 13 to 19"),
        (
            {"locks": [lock("OFD", "write", 13, None)]},
            "locked for writing (fcntl, of the open file), bytes 13 to the end",
        ),
        (
            {"locks": [lock("LEASE", "read", 0, None)] * 11},
            "; ".join(["locked for reading (lease)"] * 8) + " and 3 more",
        ),
        (
            {"watch_count": 2, "watches": [watch("/etc"), watch(None)]},
            "watches /etc (CREATE|DELETE), inode 7 of device 254:0 (CREATE|DELETE)",
        ),
        ({"interface": "tun7"}, "interface tun7"),
        ({"interface": None}, ""),
        ({"receive_queue_bytes": 0, "send_queue_bytes": 13}, "send queue 13 bytes"),
        ({"receive_queue_bytes": 0, "send_queue_bytes": 0, "expiration_count": 0}, ""),
    ],
)
def test_format_details_of_files_and_watches(details: Details, words: str) -> None:
    assert format_details(Descriptor(fd=3, type="file", target="/x", description="", details=details)) == words
