"""`python -m threadinfo`, for hosts where the command itself is not on the path."""

from threadinfo.cli import main

main()
