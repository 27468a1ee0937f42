"""Random lives of the tree and the store, against the plain model of simulation.py (invariants I1 to I4, I7, I8)."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .simulation import PAGE, Request, Simulation

tenants = st.sampled_from([None, None, "a", "b"])


class Machine(RuleBasedStateMachine):
    """Sequences over a small alphabet, so that prefixes are shared, split and repeated."""

    @initialize(slots=st.integers(1, 7), settled=st.sampled_from([0.0, 0.8, 1.0]))
    def start(self, slots: int, settled: float) -> None:
        self.simulation = Simulation(slots, settled)
        self.texts: list[list[int]] = [[1] * 9]

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

    @rule()
    def update_weights(self) -> None:
        self.simulation.update_weights()

    @precondition(lambda self: not self.simulation.running)
    @rule()
    def flush(self) -> None:
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


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
