"""Serve the nano DSA model with the real SGLang, talk to it, and show what the pattern saved; then the same by load.

python -m sgl_indexcache.demo
"""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgl_indexcache.demo.conversation import Conversation, Turn
from sgl_indexcache.errors import UserError
from sgl_indexcache.live.server import Server
from sgl_indexcache.loadtest.ab import Side, conclude, exit_code, measure
from sgl_indexcache.loadtest.drive.shape import Level
from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.workload.spec import load_workload
from sgl_indexcache.nano import CHECKPOINT as MODEL
from sgl_indexcache.nano.dialogue import DialogueTurn, demo_dialogue
from sgl_indexcache.nano.layout import count_parameters
from sgl_indexcache.pattern import Pattern, read_config
from sgl_indexcache.pattern.draw import strip

RESULTS = Path(".cache/demo")
"""takes the servers' logs and the report of the load test"""
# Half of the layers, found by the search (docs/results/quality.md). The uniform 1/2 loses facts.
PATTERN = "FFSSSFFSSSSFFSFF"
TOOL_BYTES = 1_200
"""bytes, so tokens, of a turn's tool output; the first turn's is twice as long"""
NEW_TOKENS = 48
SESSIONS = 2
"""sessions of the load test, four turns each"""
SERVER_FLAGS = (
    "--dtype float32 --mem-fraction-static 0.3 --max-total-tokens 16384 --max-running-requests 4 "
    "--chunked-prefill-size 2048 --random-seed 0 --log-level warning --skip-server-warmup"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One server's conversation: its turns, whether each answer was right, and the indexer's work."""

    turns: list[Turn]
    correct: list[bool]
    work: dict[str, int]


def converse(console: Console, server: Server, questions: list[DialogueTurn]) -> Run:
    """Hold the conversation with a running server, showing it."""
    Conversation(server.url, MODEL, 2).ask("hello")  # keeps first-use set-up out of the first turn's time
    talk = Conversation(server.url, MODEL, NEW_TOKENS)
    turns, correct = [], []
    for question in questions:
        for message in question.messages:
            talk.add(message["role"], message["content"])
        console.print(f"  {question.question} ", end="")
        turn = talk.ask(question.question, lambda piece: console.print(_answer(piece), end="", soft_wrap=True))
        turns.append(turn)
        correct.append(question.value in turn.text)
        console.print("  [green]right[/green]" if correct[-1] else f"  [red]wrong, it is {question.value}[/red]")
    return Run(turns, correct, server.indexcache_state()["work"])


@contextmanager
def serving(console: Console, side: Side) -> Iterator[Server]:
    """A side's server, with progress while it starts and stops."""
    server = Server(side.arguments, RESULTS / f"{side.name.replace(' ', '-')}.log")
    status = console.status("starting the server")
    server.waiting = lambda seconds: status.update(f"starting the server, {seconds:.0f} s")
    with status:
        server.start()
    try:
        yield server
    finally:
        with console.status("stopping the server"):
            server.stop()


def load() -> RunOptions:
    """A small load test: agents in turn, the same bytes to both servers."""
    return RunOptions(
        # The address is each server's own. Printable bytes: the model's tokens are bytes.
        url="http://127.0.0.1",
        api="generate",
        token_range="32:127",
        out=RESULTS / "load",
        workload=load_workload("demo", None),
        workload_name="demo",
        levels=[Level("closed", 1, 1)],
        sessions=SESSIONS,
        salt="demo",
    )


def _answer(piece: str) -> Text:
    return Text("".join(letter if letter.isprintable() else " " for letter in piece), "cyan")


def main() -> int:
    """Run the demo; returns the process's exit code."""
    console = Console()
    console.rule("IndexCache for SGLang")
    config = read_config(MODEL)
    layers, size = len(Pattern.of_config(config)), count_parameters(config)
    pattern, full = Pattern.parse(PATTERN, layers), Pattern.parse("F" * layers)
    console.print(
        f"A {layers}-layer DSA model of {size / 1e6:.2f} million parameters, byte-level, top-k {config['index_topk']}, "
        "served by SGLang on the CPU.\n"
        "Facts are planted in a conversation; four turns ask for them over its growing prefix."
    )
    questions = demo_dialogue(seed=1, questions=4, tool_bytes=TOOL_BYTES)
    options = load()
    shutil.rmtree(options.out, ignore_errors=True)
    sides = {key: Side(name=name, arguments=_arguments(letters)) for key, name, letters in (
        ("b", "pattern on", pattern), ("a", "every layer Full", full),
    )}  # fmt: skip
    runs, loads = {}, {}
    for key, side in sides.items():
        console.print(f"\n[bold]{side.name}[/bold]")
        console.print(strip(pattern if key == "b" else full))
        with serving(console, side) as server:
            runs[key] = converse(console, server, questions)
            with console.status(f"a load test of {SESSIONS} small agentic sessions"):
                loads[key] = [measure(server.url, options.out / key, options, Console(quiet=True))]
    ours, theirs = runs["b"], runs["a"]
    console.print()
    console.print(_table(ours, theirs))
    looked, skipped = ours.work["full_keys"], ours.work["shared_keys"]
    console.print(
        f"Indexer work with the pattern: {len(pattern.full_layers)} Full layers looked at {looked:,} keys, "
        f"{len(pattern.shared_layers)} Shared layers skipped {skipped:,} "
        f"([bold]{skipped / (looked + skipped):.0%} saved[/bold])."
    )
    console.print("\nThe same two servers under the load test's agentic sessions:")
    document = conclude((sides["a"], sides["b"]), loads, options, console)
    return int(exit_code(document))


def _arguments(pattern: Pattern) -> list[str]:
    return ["--model-path", str(MODEL), "--pattern", str(pattern), *SERVER_FLAGS.split()]


def _table(ours: Run, theirs: Run) -> Table:
    table = Table(title="per turn: the pattern | every layer Full")
    for heading in ("turn", "tokens", "cached", "TTFT", "per token", "answer"):
        table.add_column(heading, justify="right")
    for number, (a, b) in enumerate(zip(ours.turns, theirs.turns, strict=True)):
        table.add_row(
            str(number + 1),
            f"{a.prompt_tokens}",
            f"{a.cached_tokens} | {b.cached_tokens}",
            f"{a.ttft * 1e3:.0f} | {b.ttft * 1e3:.0f} ms",
            f"{a.tpot * 1e3:.0f} | {b.tpot * 1e3:.0f} ms",
            f"{_verdict(ours.correct[number])} | {_verdict(theirs.correct[number])}",
        )
    return table


def _verdict(correct: bool) -> str:
    return "right" if correct else "wrong"


def _leave(number: int, frame: FrameType | None) -> None:
    # Passes through every `finally`, so that no server stays behind.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
