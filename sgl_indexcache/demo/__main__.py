"""Serve a small DSA model with the real SGLang, talk to it, and show what the pattern saved.

python -m sgl_indexcache.demo
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from sgl_indexcache.demo.conversation import Conversation, Turn
from sgl_indexcache.errors import UserError
from sgl_indexcache.launch import Server
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.pattern.draw import strip

CACHE = Path(".cache/demo")
LAYERS = 12
NEW_TOKENS = 24
# The tool output that every later turn shares: about 2,400 tokens, one a byte.
CATALOGUE = "".join(f"tool {n:02d}: looks up record {n * 7919 % 1000:03d} in table {n % 9}.\n" for n in range(60))
QUESTIONS = (
    "Which tool looks up record 751?",
    "And which one reads table 4 first?",
    "List the tools of table 8.",
    "Summarise the catalogue in one line.",
)
SERVER_FLAGS = [
    "--dtype",
    "float32",
    "--mem-fraction-static",
    "0.3",
    "--max-total-tokens",
    "16384",
    "--max-running-requests",
    "4",
    "--chunked-prefill-size",
    "2048",
    "--random-seed",
    "0",
    "--log-level",
    "warning",
    "--skip-server-warmup",
]


def converse(console: Console, model: Path, pattern: Pattern) -> tuple[list[Turn], dict[str, int]]:
    """Serve `model` with `pattern` and hold the conversation: its turns, and the server's indexer work."""
    arguments = ["--model-path", str(model), "--pattern", str(pattern), *SERVER_FLAGS]
    log = CACHE / f"server-{'full' if pattern.is_all_full else 'pattern'}.log"
    with console.status("starting the server") as status:
        server = Server(arguments, log, waiting=lambda s: _tell(status, f"starting the server, {s:.0f} s"))
        with server:
            _warm_up(server, model)
            talk = Conversation(server.url, model, NEW_TOKENS)
            talk.add("system", CATALOGUE)
            turns = []
            for number, question in enumerate(QUESTIONS, 1):
                _tell(status, f"turn {number} of {len(QUESTIONS)}: {question}")
                console.print(f"  {question}  > ", style="bold", end="")
                turns.append(talk.ask(question, lambda piece: console.print(Text(_printable(piece), "cyan"), end="")))
                console.print()
            work = server.indexcache_state()["work"]
            _tell(status, "stopping the server")
    return turns, work


def _warm_up(server: Server, model: Path) -> None:
    """One short request, so that the first turn's time is not the time of first-use set-up."""
    Conversation(server.url, model, 2).ask("hello")


def _tell(status: Status, message: str) -> None:
    status.update(message)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "." for letter in text)


def main() -> int:
    """Run the demo; returns the process's exit code."""
    console = Console()
    console.rule("IndexCache for SGLang")
    spec = RandomModelSpec(architecture="glm_moe_dsa", layers=LAYERS, index_topk=256)
    model = write_random_model(CACHE / "model", spec)
    pattern = Pattern.uniform(LAYERS, 4)
    full = Pattern.parse("F" * LAYERS)
    console.print(
        f"A {LAYERS}-layer DSA model with random weights (its answers mean nothing), served by SGLang on the CPU.\n"
        f"Pattern: {len(pattern.full_layers)} Full layers select, {len(pattern.shared_layers)} Shared layers reuse."
    )
    console.print(strip(pattern))
    console.print("[bold]pattern on[/bold]")
    with_pattern, saved = converse(console, model, pattern)
    console.print("[bold]every layer Full[/bold]")
    all_full, _ = converse(console, model, full)
    console.print(_table(with_pattern, all_full))
    looked, skipped = saved["full_keys"], saved["shared_keys"]
    console.print(
        f"Indexer work with the pattern: {looked:,} keys looked at in Full layers, {skipped:,} skipped in Shared "
        f"layers ([bold]{skipped / (looked + skipped):.0%} saved[/bold])."
    )
    return 0


def _table(pattern: list[Turn], full: list[Turn]) -> Table:
    table = Table(title="per turn: pattern on, and every layer Full")
    for heading in (
        "turn",
        "prompt tokens",
        "cached",
        "TTFT pattern",
        "TTFT full",
        "TPOT pattern",
        "TPOT full",
    ):
        table.add_column(heading, justify="right")
    for number, (ours, theirs) in enumerate(zip(pattern, full, strict=True), 1):
        table.add_row(
            str(number),
            str(ours.prompt_tokens),
            str(ours.cached_tokens),
            f"{ours.ttft * 1e3:.0f} ms",
            f"{theirs.ttft * 1e3:.0f} ms",
            f"{ours.tpot * 1e3:.1f} ms",
            f"{theirs.tpot * 1e3:.1f} ms",
        )
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
