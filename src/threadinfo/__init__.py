"""threadinfo: every thread, all memory and every file descriptor of one Linux process, and what they did."""

__version__ = "0.1.0"
