"""Random lives of the tree and the store, against the plain model of simulation.py (invariants I1 to I4, I7, I8)."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .simulation import PAGE, Request, Simulation

tenants = st.sampled_from([None, None, "a", "b"])
seldom = st.sampled_from([False, False, False, True])


class Machine(RuleBasedStateMachine):
    """Sequences over a small alphabet, so that prefixes are shared, split and repeated."""

    @initialize(slots=st.integers(1, 7), settled=st.sampled_from([0.0, 0.8, 1.0]))
    def start(self, slots: int, settled: float) -> None:
        self.simulation = Simulation(slots, settled)
        self.texts: list[list[int]] = [[1] * 9, [0, 1] * 9, [0] * 26]

    @rule(data=st.data(), tenant=tenants, chunk=st.sampled_from([PAGE, 2 * PAGE, 64]))
    def admit(self, data: Any, tenant: str | None, chunk: int) -> None:
        text = data.draw(st.sampled_from(self.texts))
        cut = data.draw(st.integers(1, len(text)))
        more = data.draw(st.lists(st.integers(0, 1), max_size=9))
        keep = data.draw(st.booleans())
        tokens = (text if keep else text[:cut]) + more
        tokens = tokens[:40]
        self.texts.append(tokens)
        self.simulation.admit(tokens, tenant, chunk)

    @rule(index=st.integers(0, 99), tenant=tenants)
    def repeat(self, index: int, tenant: str | None) -> None:
        self.simulation.admit(self.texts[index % len(self.texts)], tenant, 64)

    @rule(
        index=st.integers(0, 99),
        tenant=tenants,
        answer=st.lists(st.integers(0, 1), max_size=7),
        question=st.lists(st.integers(0, 1), min_size=1, max_size=5),
        turns=st.integers(1, 3),
    )
    def converse(self, index: int, tenant: str | None, answer: list[int], question: list[int], turns: int) -> None:
        """Turns of one conversation, each prompt repeated once, the others standing still meanwhile."""
        tokens = self.texts[index % len(self.texts)]
        for _ in range(turns):
            for _ in range(2):
                request = self.simulation.admit(tokens[:40], tenant, 64)
                if request is None:
                    return
                for token in answer:
                    self.simulation.decode([request], token)
                self.simulation.finish(request)
                self.simulation.check()
            tokens = list(request.tokens) + question
        self.texts.append(tokens[:40])

    @precondition(lambda self: self.simulation.running)
    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def decode(self, tokens: list[int]) -> None:
        for token in tokens:
            self.simulation.decode(self.simulation.running, token)

    @precondition(lambda self: self.simulation.running)
    @rule(index=st.integers(0, 99), insert=st.sampled_from([True, True, False]), overlap=st.booleans())
    def finish(self, index: int, insert: bool, overlap: bool) -> None:
        """Finished, or (without insertion) aborted or retracted."""
        simulation = self.simulation
        request: Request = simulation.running[index % len(simulation.running)]
        overlap = overlap and (request.computed % PAGE > 0)
        simulation.finish(request, insert=insert, overlap=overlap)
        self.texts.append(list(request.tokens)[:40])

    @rule(tokens=st.integers(1, 30))
    def evict(self, tokens: int) -> None:
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams

        self.simulation.tree.evict(EvictParams(num_tokens=tokens))

    @rule(now=seldom)
    def update_weights(self, now: bool) -> None:
        if now:
            self.simulation.update_weights()

    @precondition(lambda self: not self.simulation.running)
    @rule(now=seldom)
    def flush(self, now: bool) -> None:
        if now:
            self.simulation.flush()

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.check()

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            for request in list(self.simulation.running):
                self.simulation.finish(request)
            self.simulation.check()


class WholePrefillMachine(Machine):
    """The same lives where only the very same prefill may be served; each has an order of its own."""

    @initialize(slots=st.integers(1, 7))
    def start(self, slots: int) -> None:  # type: ignore[override]
        self.simulation = Simulation(slots, settled=None)
        self.texts = [[1] * 9, [0, 1] * 9, [0] * 26]


SETTINGS = settings(max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck), derandomize=True)
TestMachine = Machine.TestCase
TestMachine.settings = SETTINGS
TestWholePrefillMachine = WholePrefillMachine.TestCase
TestWholePrefillMachine.settings = SETTINGS
