"""The command that the others belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from threadinfo import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


DEFAULT_COMMAND = "report"


class _DefaultGroup(click.Group):
    """A group in which `threadinfo TARGET...` means `threadinfo report TARGET...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h", "--version"}:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and targets: either may come first."""
        found = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-"):
            targets = next(iter(self.commands[DEFAULT_COMMAND].params))
            found += targets.shell_complete(ctx, incomplete)
        return found


@click.group(
    cls=_DefaultGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`threadinfo TARGET...` is short for `threadinfo report TARGET...`. Manual: man threadinfo.",
)
@click.version_option(__version__, message="threadinfo %(version)s")
def cli() -> None:
    """Every thread, all memory and every file descriptor of one process."""
