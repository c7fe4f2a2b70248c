"""The command that the others belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from threadinfo import __version__
from threadinfo.cli.nearest import nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


DEFAULT_COMMAND = "report"

_FIRST_WORD = "threadinfo.first_word"  # in the context: where it is no command
_WORDS_FOR_HELP = {"help": "--help", "usage": "--help", "version": "--version"}

# What other tools call it, or another command of ours: what it is here.
_OUTPUT_OF_TRACE = (
    "What happens goes to standard output: threadinfo trace TARGET > FILE. "
    "A report goes to a file: threadinfo TARGET --trace TIME -o FILE."
)
_TRACE = "A report with a trace: threadinfo TARGET --trace TIME."
_DURATION = "How long: threadinfo trace TARGET --duration TIME."
_INTERVAL = "How often: threadinfo top TARGET --interval TIME."
_HINTS = {
    ("trace", "-o"): _OUTPUT_OF_TRACE,
    ("trace", "--output"): _OUTPUT_OF_TRACE,
    ("trace", "--trace"): _DURATION,
    ("trace", "-d"): _DURATION,
    ("trace", "-t"): _DURATION,
    ("report", "--duration"): _TRACE,
    ("report", "-d"): _TRACE,
    ("report", "-t"): _TRACE,
    ("top", "-d"): _INTERVAL,
    ("top", "-i"): _INTERVAL,
    ("top", "--delay"): _INTERVAL,
    ("", "--json"): "Say --format json.",
    ("", "--html"): "Say --format html.",
    ("", "-f"): "--follow traces the processes that it makes, too; --format says how it is written.",
}
_NAMES_A_PROCESS = {"-p", "--pid", "--process", "--name"}
_TAKES_A_PROCESS = {"report", "trace", "top"}


class _Command(click.Command):
    """A command that says the right form of an option that it does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as problem:
            if not (hint := self._hint(ctx, problem, given)):
                raise
            raise click.UsageError(f"No such option {problem.option_name!r}. {hint}", ctx) from None

    def _hint(self, ctx: click.Context, problem: click.NoSuchOption, given: list[str]) -> str | None:
        option, name = problem.option_name, self.name or ""
        if option in _NAMES_A_PROCESS and name in _TAKES_A_PROCESS:
            words = ["threadinfo", *([] if name == DEFAULT_COMMAND else [name]), _value_of(option, given) or "TARGET"]
            return f"A process needs no option: {' '.join(words)}."
        if hint := _HINTS.get((name, option)) or _HINTS.get(("", option)):
            return hint
        group = ctx.parent.command if ctx.parent else None
        if problem.possibilities or not isinstance(group, click.Group):
            return None
        owners = [one for one, other in group.commands.items() if any(option in each.opts for each in other.params)]
        return f"It is an option of: {', '.join(sorted(owners))}." if owners else None


def _value_of(option: str, given: list[str]) -> str | None:
    """What was given with an option that is not known, where that can be told."""
    for index, word in enumerate(given):
        if word == option:
            return given[index + 1] if index + 1 < len(given) else None
        if word.startswith(option):
            return word[len(option) :].removeprefix("=")
    return None


class _DefaultGroup(click.Group):
    """A group in which `threadinfo TARGET...` means `threadinfo report TARGET...`."""

    command_class = _Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"--help", "-h", "--version"}:
            ctx.meta[_FIRST_WORD] = args[0]
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


def meant_command(target: str) -> str | None:
    """What a target was probably meant for that stands where a command may stand, and is spelled nearly so."""
    context = click.get_current_context(silent=True)
    if context is None or context.meta.get(_FIRST_WORD) != target:
        return None
    if option := _WORDS_FOR_HELP.get(target.casefold()):
        return f"threadinfo {option}"
    near = nearest(target, cli.commands)
    return f"the command {near}" if near else None
