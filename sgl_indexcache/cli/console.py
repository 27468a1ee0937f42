"""Where the commands write: results to stdout, messages to stderr."""

from rich.console import Console

from sgl_indexcache.errors import UserError

# Both look up sys.stdout and sys.stderr at every print.
out = Console(highlight=False)
messages = Console(stderr=True, highlight=False)


def print_error(error: UserError) -> None:
    """Print `error: <text>` as one line on stderr, whatever the text holds."""
    # Text of foreign files may stand in it: no line ends, no terminal escapes, no rich markup.
    text = "".join(mark if mark.isprintable() else " " for mark in str(error))
    messages.print("error:", style="bold red", end=" ")
    messages.print(text, markup=False, emoji=False, soft_wrap=True)
