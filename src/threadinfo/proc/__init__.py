"""The state of a process as /proc tells it, for any user."""
