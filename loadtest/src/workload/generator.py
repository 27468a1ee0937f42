"""From a workload and a seed to sessions: session k is a function of workload, seed, salt and k alone."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from sgl_indexcache.loadtest.errors import WorkloadError
from sgl_indexcache.loadtest.workload.material import Material
from sgl_indexcache.loadtest.workload.plan import Piece, Session, Turn, length
from sgl_indexcache.loadtest.workload.spec import Workload

SaltMode = Literal["none", "run", "session"]
LONGEST_PROMPT = 10_000_000
MAX_TURNS = 10_000
MAX_CHILDREN = 1_000
# Streams of random numbers: content must not move when a length's distribution draws once more.
_SHARED, _SHAPE, _CONTENT = 0, 1, 2


class Generator:
    """Makes sessions.

    salt_mode  none: prompts are the same in every run, so a server may hold them from the run before;
               run: every run has other prompts, its sessions share their system prompt;
               session: sessions share nothing
    salt       the run's salt, any text; the same salt gives the same bytes
    """

    def __init__(
        self, workload: Workload, material: Material, seed: int = 0, salt_mode: SaltMode = "run", salt: str = ""
    ) -> None:
        if seed < 0:
            raise WorkloadError(f"seed {seed} is negative: give 0 or more")
        self.workload, self.material, self.seed = workload, material, seed
        self.salt_mode, self.salt = salt_mode, salt
        rng = np.random.default_rng([seed, _SHARED])
        self._shared = material.make("system", round(workload.shared_tokens * workload.scale), rng)

    def sessions(self, first: int = 0) -> Iterator[Session]:
        """Sessions `first`, `first` + 1, ... without end."""
        index = first
        while True:
            yield self.session(index, fresh=index == first)
            index += 1

    def session(self, index: int, *, fresh: bool = False) -> Session:
        """Session number `index`. `fresh`: no earlier session of the run has sent the shared prefix."""
        prefix = self._prefix(index)
        shape = np.random.default_rng([self.seed, _SHAPE, index])
        content = np.random.default_rng([self.seed, _CONTENT, index])
        opening = self.workload.context_tokens.draw_count(shape, self.workload.scale, minimum=1)
        turns = self._turns(f"{index}", opening, self.workload.turns.draw_count(shape, minimum=1), shape, content)
        shared = 0 if fresh or self.salt_mode == "session" else length(prefix)
        session = Session(id=f"{index}", prefix=prefix, turns=turns, sent_before=shared, index=index)
        _refuse_huge(session)
        return session

    def _prefix(self, index: int) -> tuple[Piece, ...]:
        pieces = (self._shared,) if self._shared.tokens else ()
        if self.salt_mode == "none":
            return pieces
        own = f"{self.salt}/{index}" if self.salt_mode == "session" else self.salt
        return (self.material.salt(own), *pieces)

    def _turns(
        self, name: str, opening: int, count: int, shape: np.random.Generator, content: np.random.Generator,
        *, branches: bool = True,
    ) -> tuple[Turn, ...]:  # fmt: skip
        if count > MAX_TURNS:
            raise WorkloadError(f"session {name} has {count} turns: at most {MAX_TURNS} can be played")
        work = self.workload
        turns = []
        for number in range(count):
            # Every quantity is drawn in every turn, used or not, so that turns stay in step.
            new = work.new_tokens.draw_count(shape, work.scale, minimum=1)
            output = work.output_tokens.draw_count(shape, work.scale, minimum=1)
            think = work.think_s.draw(shape)
            samples = work.n.draw_count(shape, minimum=1)
            repeats = int(shape.random() < work.repeat_chance)
            branch = shape.random() < work.subagents.chance
            piece = self.material.make("user", opening if number == 0 else new, content)
            reply = self.material.make("assistant", output, content)
            children = self._children(f"{name}.{number}", shape, content) if branches and branch else ()
            turns.append(
                Turn(
                    new=(piece,),
                    output_tokens=output,
                    reply=None if work.replies == "actual" else reply,
                    think_s=think if number else 0.0,
                    n=samples,
                    repeats=repeats,
                    children=children,
                )
            )
        return tuple(turns)

    def _children(self, name: str, shape: np.random.Generator, content: np.random.Generator) -> tuple[Session, ...]:
        agents = self.workload.subagents
        count = agents.count.draw_count(shape)
        if count > MAX_CHILDREN:
            raise WorkloadError(f"turn {name} has {count} sub-agents: at most {MAX_CHILDREN} can be played")
        sessions = []
        for number in range(count):
            task = agents.task_tokens.draw_count(shape, self.workload.scale, minimum=1)
            turns = agents.turns.draw_count(shape, minimum=1)
            own = f"{name}.{number}"
            own_turns = self._turns(own, task, turns, shape, content, branches=False)
            sessions.append(Session(id=own, prefix=(), turns=own_turns))
        return tuple(sessions)


def _refuse_huge(session: Session) -> None:
    tokens = length(session.prefix) + sum(length(turn.new) for turn in session.turns)
    if tokens > LONGEST_PROMPT:
        raise WorkloadError(
            f"session {session.id} grows to {tokens} tokens: more than {LONGEST_PROMPT} cannot be sent, lower scale"
        )
