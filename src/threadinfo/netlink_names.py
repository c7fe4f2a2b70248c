"""Names of netlink protocols and multicast groups (include/uapi/linux: netlink.h, rtnetlink.h, xfrm.h, nfnetlink.h)."""

from __future__ import annotations

_PROTOCOLS = {
    0: "ROUTE",
    1: "UNUSED",
    2: "USERSOCK",
    3: "FIREWALL",
    4: "SOCK_DIAG",
    5: "NFLOG",
    6: "XFRM",
    7: "SELINUX",
    8: "ISCSI",
    9: "AUDIT",
    10: "FIB_LOOKUP",
    11: "CONNECTOR",
    12: "NETFILTER",
    13: "IP6_FW",
    14: "DNRTMSG",
    15: "KOBJECT_UEVENT",
    16: "GENERIC",
    18: "SCSITRANSPORT",
    19: "ECRYPTFS",
    20: "RDMA",
    21: "CRYPTO",
    22: "SMC",
}

# By group number; a bit mask's lowest bit is group 1.
_ROUTE_GROUPS = {
    1: "LINK",
    2: "NOTIFY",
    3: "NEIGH",
    4: "TC",
    5: "IPV4_IFADDR",
    6: "IPV4_MROUTE",
    7: "IPV4_ROUTE",
    8: "IPV4_RULE",
    9: "IPV6_IFADDR",
    10: "IPV6_MROUTE",
    11: "IPV6_ROUTE",
    12: "IPV6_IFINFO",
    13: "DECnet_IFADDR",
    14: "NOP2",
    15: "DECnet_ROUTE",
    16: "DECnet_RULE",
    17: "NOP4",
    18: "IPV6_PREFIX",
    19: "IPV6_RULE",
    20: "ND_USEROPT",
    21: "PHONET_IFADDR",
    22: "PHONET_ROUTE",
    23: "DCB",
    24: "IPV4_NETCONF",
    25: "IPV6_NETCONF",
    26: "MDB",
    27: "MPLS_ROUTE",
    28: "NSID",
    29: "MPLS_NETCONF",
    30: "IPV4_MROUTE_R",
    31: "IPV6_MROUTE_R",
    32: "NEXTHOP",
    33: "BRVLAN",
    34: "MCTP_IFADDR",
    35: "TUNNEL",
    36: "STATS",
    37: "IPV4_MCADDR",
    38: "IPV6_MCADDR",
    39: "IPV6_ACADDR",
}
_GROUPS = {
    0: _ROUTE_GROUPS,
    6: {1: "ACQUIRE", 2: "EXPIRE", 3: "SA", 4: "POLICY", 5: "AEVENTS", 6: "REPORT", 7: "MIGRATE", 8: "MAPPING"},
    7: {1: "AVC"},
    9: {1: "READLOG"},
    12: {
        1: "CONNTRACK_NEW",
        2: "CONNTRACK_UPDATE",
        3: "CONNTRACK_DESTROY",
        4: "CONNTRACK_EXP_NEW",
        5: "CONNTRACK_EXP_UPDATE",
        6: "CONNTRACK_EXP_DESTROY",
        7: "NFTABLES",
        8: "ACCT_QUOTA",
        9: "NFTRACE",
    },
    15: {1: "KERNEL", 2: "UDEV"},
}


def protocol_name(protocol: int) -> str:
    """``0`` to ``"NETLINK_ROUTE"``."""
    return f"NETLINK_{_PROTOCOLS.get(protocol, protocol)}"


def group_names(protocol: int, groups: int) -> list[str]:
    """The names of the groups of a bit mask, ``"group N"`` where a group has none."""
    names = _GROUPS.get(protocol, {})
    present = (group for group in range(1, groups.bit_length() + 1) if groups >> (group - 1) & 1)
    return [names.get(group, f"group {group}") for group in present]
