"""How a Full layer selects on CUDA: the one place that decides it, and does it.

Before a forward the backend says what is coming (`take_pages`, `begin_prefill`, `see`); in a Full layer SGLang's
indexer asks through one of two doors (sglang_port, seam cuda-indexer), `prefill` or `decode`, with a `Call`. Each makes
one `Decision` and carries it out:

    known   a tail snapshot holds the selections: nothing is scored
    listed  two-level scoring: rows that have a shortlist are scored among its keys
    ours    our Triton kernel scores every key
    sglang  SGLang's own kernels do

A decision is of a layer and of rows of a forward. Rows that other ranks do, and rows that verify drafted tokens, would
be further decisions of this kind: `Decision` and `Call` are values, and whatever is settled before the forward is
settled on the host, from lengths alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from sgl_indexcache.attention.choice import Chooser, Phase
from sgl_indexcache.attention.row_lengths import RowLengths
from sgl_indexcache.attention.snapshots import Snapshots
from sgl_indexcache.indexer.cuda.decode_lists import DecodeLists
from sgl_indexcache.indexer.cuda.select import select
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.selection import Form, IndexerTerms, Inputs, TensorQueries, Terms

Way = Literal["known", "listed", "ours", "sglang"]


class Indexer(IndexerTerms, Protocol):
    """What is read of SGLang's `Indexer` module (layers/attention/dsa/dsa_indexer.py:309)."""

    index_topk: int


@dataclass(frozen=True, slots=True)
class Call:
    """A Full layer asks for the selections of a forward's rows.

    layer     its id
    indexer   SGLang's module
    queries   float8_e4m3fn [T, H, 128]
    gates     float32 [T, H] or [T, H, 1], all constants folded in
    keys      gives the layer's page-packed index keys, uint8 [KV pages, 64 * 132]
    metadata  SGLang's DSAIndexerMetadata
    out       int32 [T, topk] to be filled, if SGLang has made one
    original  SGLang's own way, to be given `out`
    """

    layer: int
    indexer: Indexer
    queries: torch.Tensor
    gates: torch.Tensor
    keys: Callable[[], torch.Tensor]
    metadata: Any
    out: torch.Tensor | None
    original: Callable[[torch.Tensor | None], torch.Tensor]

    @property
    def rows(self) -> int:
        """T."""
        return self.queries.shape[0]

    def output(self) -> torch.Tensor:
        """Where the selection is written, int32 [T, topk]."""
        if self.out is not None:
            return self.out
        return torch.empty(self.rows, self.indexer.index_topk, dtype=torch.int32, device=self.queries.device)


@dataclass(frozen=True, slots=True)
class Decision:
    """How one Full layer selects for the rows of one forward.

    watch  the guard's samples are judged beside, although no list is used
    count  two-level scoring counts the rows as scored exactly
    write  the selections go into the store
    """

    way: Way
    watch: bool = False
    count: bool = False
    write: bool = False


class CudaSelection:
    """The selections of one scheduler.

    chooser       which kernel scores a shape
    budget_bytes  bound of the scores that are alive at a time
    arange        int32 [N] on the device: 0 to N - 1 (SGLang's get_device_int32_arange)
    kernels       names of the kernels in use, kept up to date
    """

    def __init__(
        self,
        chooser: Chooser,
        budget_bytes: int,
        arange: Callable[[int], torch.Tensor],
        kernels: dict[tuple[str, str], str],
    ) -> None:
        self.chooser, self.budget_bytes, self.arange, self.kernels = chooser, budget_bytes, arange, kernels
        # Set by the factory where they are on.
        self.snapshots: Snapshots | None = None
        self.two_level: TwoLevel | None = None
        self.decode_lists: DecodeLists | None = None
        self._longest: int | None = None

    # --- before a forward ---

    def clear(self) -> None:
        """What was settled for the forward before does not hold for the next one."""
        self._longest = None
        if self.snapshots is not None:
            self.snapshots.clear()
        if self.two_level is not None:
            self.two_level.clear()

    def take_pages(self, positions: torch.Tensor, slots: torch.Tensor) -> None:
        """The forward writes tokens at `positions` int [T] into KV `slots` int [T], on the device."""
        if self.two_level is not None:
            self.two_level.records.take(positions, slots)

    def begin_prefill(
        self, lengths: Sequence[int], new: Sequence[int], page_table: torch.Tensor | None, *, is_request: bool
    ) -> None:
        """Settle a prefill of requests with `lengths` tokens, `new` of them rows.

        page_table  int32 [B, P]; None where no layer has lists: exact scoring, dense prefill
        """
        if self.snapshots is not None:
            self.snapshots.prepare(lengths, new)
        if self.two_level is not None and page_table is not None:
            self.two_level.begin(lengths, new, page_table, is_request=is_request)

    def see(self, longest: int | None) -> None:
        """The longest context of the forward; None where a graph serves any."""
        self._longest = longest

    @property
    def knows(self) -> bool:
        """Whether a tail snapshot holds all selections of the forward in preparation."""
        return self.snapshots is not None and self.snapshots.reads

    def count_decode(self, lengths: RowLengths, rows: int) -> None:
        """Count a decode step, of which the first `rows` rows are those of requests."""
        if self.two_level is not None and self.decode_lists is not None and self.decode_lists.serves(len(lengths)):
            self.decode_lists.count(lengths.of(rows), self.two_level.work)

    # --- in a layer ---

    def decide_prefill(self, layer: int, rows: int) -> Decision:
        """How this layer selects for the rows of the prefill in preparation."""
        two_level = self.two_level
        if self.knows:
            return Decision("known", watch=two_level is not None and two_level.lists)
        write = self.snapshots is not None and self.snapshots.writes
        if two_level is not None and two_level.shortlists(layer):
            return Decision("listed", write=write)
        return Decision(
            self.chooser.indexer("prefill", rows, self._longest),
            watch=two_level is not None and two_level.lists,
            count=two_level is not None,
            write=write,
        )

    def decide_decode(self, rows: int) -> Decision:
        """How every Full layer selects for the rows of the decode step in preparation; a captured graph keeps it."""
        if self.decode_lists is not None and self.decode_lists.serves(rows):
            return Decision("listed")
        return Decision(self.chooser.indexer("decode", rows, self._longest))

    def prefill(self, call: Call) -> torch.Tensor:
        """Selection int32 [T, topk] of a prefill forward, in the form that SGLang's metadata asks for."""
        decision = self.decide_prefill(call.layer, call.rows)
        two_level, snapshots = self.two_level, self.snapshots
        if decision.watch:
            assert two_level is not None
            two_level.watch(call.layer, self.inputs("prefill", call))
        if decision.count:
            assert two_level is not None
            two_level.count_exact()
        if decision.way == "known":
            assert snapshots is not None
            return snapshots.read(call.layer, terms(call.metadata), call.output())
        self.kernels["prefill", "indexer"] = _name(decision.way)
        if decision.way == "listed":
            assert two_level is not None
            selection = call.output()
            two_level.select(call.layer, self.inputs("prefill", call), terms(call.metadata), selection)
        elif decision.way == "ours":
            selection = self._ours("prefill", call)
        else:
            selection = call.original(call.out)
        if decision.write:
            assert snapshots is not None
            snapshots.write(call.layer, terms(call.metadata), selection)
        return selection

    def decode(self, call: Call) -> torch.Tensor:
        """Selection int32 [T, topk] of a decode forward, one row a request."""
        decision = self.decide_decode(call.rows)
        self.kernels["decode", "indexer"] = _name(decision.way)
        if decision.way == "listed":
            assert self.decode_lists is not None
            selection = call.output()
            slots = terms(call.metadata).form == "slots"
            self.decode_lists.select(call.layer, self.inputs("decode", call), slots=slots, out=selection)
            return selection
        return self._ours("decode", call) if decision.way == "ours" else call.original(call.out)

    def _ours(self, phase: Phase, call: Call) -> torch.Tensor:
        attention = call.metadata.attn_metadata
        call_terms, out = terms(call.metadata), call.output()
        select(
            self.inputs(phase, call),
            call_terms,
            out,
            max_length=min(attention.max_seq_len_k, call_terms.page_table.shape[1] * attention.page_size),
            budget_bytes=self.budget_bytes,
        )
        return out

    def inputs(self, phase: Phase, call: Call) -> Inputs:
        """What the rows are selected by."""
        metadata = call.metadata
        if phase == "decode":
            lengths = metadata.get_seqlens_int32()
            request = self.arange(lengths.shape[0])
        else:
            lengths, request = metadata.get_seqlens_expanded(), metadata.get_token_to_batch_idx()
        return Inputs(
            TensorQueries(call.queries, call.gates.reshape(call.gates.shape[0], -1)),
            call.keys(),
            metadata.get_page_table_64(),
            request,
            lengths,
            call.indexer.num_init_tokens,
            call.indexer.num_local_tokens,
        )


def _name(way: Way) -> str:
    """The metric kernel_info's word for it."""
    return "two_level" if way == "listed" else way


def terms(metadata: Any) -> Terms:
    """How SGLang's DSAIndexerMetadata wants the selections of a forward."""
    form: Form = "slots"
    if metadata.force_unfused_topk:
        form = "positions"
    elif metadata.topk_transform_method.name == "RAGGED":
        form = "offsets"
    return Terms(form, metadata.get_page_table_64(), metadata.attn_metadata.topk_indices_offset)
