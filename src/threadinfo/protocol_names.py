"""Names of the protocols that raw and packet sockets take: above IP, and on Ethernet."""

from __future__ import annotations

_IP_PROTOCOLS = {
    0: "IP",
    1: "ICMP",
    2: "IGMP",
    4: "IPIP",
    6: "TCP",
    8: "EGP",
    17: "UDP",
    33: "DCCP",
    41: "IPV6",
    46: "RSVP",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPV6",
    88: "EIGRP",
    89: "OSPF",
    94: "BEETPH",
    98: "ENCAP",
    103: "PIM",
    108: "COMP",
    112: "VRRP",
    115: "L2TP",
    132: "SCTP",
    136: "UDPLITE",
    137: "MPLS",
    143: "ETHERNET",
    255: "RAW",
}
"""include/uapi/linux/in.h, and what else IANA's register calls what routers speak."""

_ETHERNET_PROTOCOLS = {0x0003: "ALL", 0x0800: "IP", 0x0806: "ARP", 0x8100: "8021Q", 0x86DD: "IPV6", 0x888E: "PAE"} | {
    0x8863: "PPP_DISC",
    0x8864: "PPP_SES",
    0x88CC: "LLDP",
    0x88F7: "1588",
}
"""include/uapi/linux/if_ether.h."""


def ip_protocol_name(number: int) -> str:
    """``4`` to ``"IPIP"``; the number where it has no name here."""
    return _IP_PROTOCOLS.get(number, str(number))


def ethernet_protocol_name(number: int) -> str | None:
    """``0x0806`` to ``"ARP"``; None for 0, which is no protocol."""
    return _ETHERNET_PROTOCOLS.get(number, f"{number:#06x}") if number else None
