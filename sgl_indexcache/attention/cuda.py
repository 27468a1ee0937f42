"""The CUDA backend: SGLang's own DSA backend, with the kernels of a forward chosen by its shape.

Metadata, CUDA graphs, the KV writes and the carry of selections from Full to Shared layers are SGLang's. Before a
forward this backend decides who attends to the selections and who scores in Full layers (choice.py); with SGLang's
own chosen for both it does nothing else, and gives the same bits as `--attention-backend dsa`. A captured graph
keeps the kernels of its capture; prefill graphs run attention and indexer between their segments, so those are
chosen anew at every replay.
"""

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend

from sgl_indexcache.attention import flashinfer
from sgl_indexcache.attention.choice import Chooser, Consumer, Phase, have_ours, table
from sgl_indexcache.attention.cuda_selection import Call, CudaSelection
from sgl_indexcache.attention.row_lengths import RowLengths
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Kernels
from sgl_indexcache.telemetry.work import IndexerWork

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner

# FlashInfer is entered through SGLang's FA3 branch, which hands over queries in two parts, as FlashInfer wants them.
_SGLANG_NAME = {"flashinfer": "fa3", "fa3": "fa3", "flashmla": "flashmla_sparse"}


class IndexCacheCudaBackend(DeepseekSparseAttnBackend):  # type: ignore[misc, unused-ignore]
    """`DeepseekSparseAttnBackend` (layers/attention/dsa_backend.py), registered as `indexcache`."""

    # A schedule is laid out on the host, from the lengths of the rows.
    needs_cpu_seq_lens: bool = True
    # Of every KV slot, int32, while selections are returned (sglang_port, seam cuda-capture).
    position_of_slot: torch.Tensor | None = None
    # Set by SGLang.
    dsa_prefill_impl: str
    dsa_decode_impl: str
    use_mha: bool

    def __init__(self, model_runner: "ModelRunner", kernels: Kernels, pattern: Pattern) -> None:
        super().__init__(model_runner)
        config = model_runner.model_config
        self._set_pattern(pattern)
        self.work = IndexerWork()
        self.kernels: dict[tuple[str, str], str] = {}
        self.chooser = Chooser(
            settings=kernels,
            heads=self.num_q_heads,
            index_heads=config.hf_text_config.index_n_heads,
            kv="fp8" if self.dsa_kv_cache_store_fp8 else "bf16",
            hopper=self.device_capability == (9, 0) and (self.kv_lora_rank, self.qk_rope_head_dim) == (512, 64),
            ours=have_ours(),
            table=table(),
        )
        self.selection = CudaSelection(
            self.chooser, kernels.scratch_mib << 20, self.get_device_int32_arange, self.kernels
        )
        # What the flags say, for the choice "sglang".
        self._flags = {"prefill": self.dsa_prefill_impl, "decode": self.dsa_decode_impl}
        self._dense_prefill = _fa3_takes(self.qk_nope_head_dim + self.qk_rope_head_dim, config.v_head_dim)
        self._consumer: Consumer = "sglang"
        self._phase: Phase = "decode"
        self._schedules: dict[Phase, flashinfer.FlashInferMla] = {}
        if self._may_use_flashinfer():
            self._make_schedules()

    @property
    def two_level(self) -> TwoLevel | None:
        """Two-level scoring; None when scoring is exact."""
        return self.selection.two_level

    def configure(self, pattern: Pattern) -> None:
        """Serve another pattern from the next forward on; see attention/base.py."""
        self._set_pattern(pattern)
        if self.two_level is not None:
            self.two_level.configure(pattern.full_layers)

    def _set_pattern(self, pattern: Pattern) -> None:
        self.shared_layers = frozenset(pattern.shared_layers)
        self.layers = len(pattern)

    def _may_use_flashinfer(self) -> bool:
        choices = (self.chooser.settings.prefill, self.chooser.settings.decode)
        return "flashinfer" in choices or ("auto" in choices and self.chooser.kv == "bf16" and self.chooser.hopper)

    def _make_schedules(self) -> None:
        """One schedule a phase, so that alternating phases do not plan each other's away."""
        workspace = torch.empty(flashinfer.WORKSPACE_BYTES, dtype=torch.uint8, device=self.device)
        phases: tuple[Phase, Phase] = ("prefill", "decode")
        for phase in phases:
            self._schedules[phase] = flashinfer.FlashInferMla(
                self.num_q_heads, self.dsa_index_topk, self.kv_lora_rank, self.qk_rope_head_dim, workspace
            )

    # --- before a forward ---

    def init_forward_metadata(self, forward_batch: "ForwardBatch") -> None:
        """Metadata of an eager forward, or of one whose prefill graph calls attention eagerly."""
        super().init_forward_metadata(forward_batch)
        mode = forward_batch.forward_mode
        self.selection.clear()
        if mode.is_decode_or_idle():
            lengths = RowLengths.decode(_host_lengths(forward_batch))
            self._take_decoded(forward_batch, lengths)
            self._prepare("decode", lengths, real_rows=_request_rows(forward_batch, lengths), longest=lengths.longest)
        elif mode.is_extend_without_speculative():
            requests, new = _host_lengths(forward_batch), forward_batch.extend_seq_lens_cpu
            lengths = RowLengths.extend(requests, new)
            if self.two_level is not None:
                rows = len(lengths)  # what SGLang pads a forward with comes after them
                self.selection.take_pages(forward_batch.positions[:rows], forward_batch.out_cache_loc[:rows])
            lists = self.two_level is not None and not self.use_mha
            page_table = self.forward_metadata.real_page_table if lists else None
            self.selection.begin_prefill(requests.tolist(), new, page_table, is_request=bool(forward_batch.rids))
            self._prepare("prefill", lengths, real_rows=_request_rows(forward_batch, lengths), longest=lengths.longest)
        else:
            self._use_flags()

    def init_forward_metadata_out_graph(self, forward_batch: Any, in_capture: bool = False) -> None:
        """Metadata of a decode graph: at its capture, and again before each replay."""
        super().init_forward_metadata_out_graph(forward_batch, in_capture)
        self.selection.clear()
        if not forward_batch.forward_mode.is_decode_or_idle():
            self._use_flags()
            return
        lengths = RowLengths.decode(forward_batch.seq_lens.cpu() if in_capture else _host_lengths(forward_batch))
        if not in_capture:
            self._take_decoded(forward_batch, lengths)
        real_rows = 0 if in_capture else len(lengths) - forward_batch.num_padding
        # The graph outlives this batch: nothing may be chosen by its lengths.
        self._prepare("decode", lengths, real_rows=real_rows, longest=None)

    def _take_decoded(self, forward_batch: Any, lengths: RowLengths) -> None:
        """Pages that this decode step begins lose their records; one step in 64 of a request begins one."""
        if self.two_level is not None and lengths.begin_page(PAGE):
            slots = forward_batch.out_cache_loc[: len(lengths)]
            self.selection.take_pages(forward_batch.seq_lens[: len(slots)] - 1, slots)

    def set_dsa_prefill_impl(self, forward_batch: "ForwardBatch | None" = None) -> None:
        """SGLang's choice between dense and sparse prefill; sparse where FA3 has no kernel for the head sizes."""
        super().set_dsa_prefill_impl(forward_batch)
        self.use_mha = self.use_mha and self._dense_prefill

    def _prepare(self, phase: Phase, lengths: RowLengths, *, real_rows: int, longest: int | None) -> None:
        self.selection.see(longest)
        consumer = self.chooser.consumer(phase, len(lengths)) if len(lengths) else "sglang"
        if consumer == "flashinfer" and len(lengths) > flashinfer.MOST_ROWS:
            consumer = "sglang"
        self._use(consumer, phase)
        if consumer == "flashinfer" and not self.use_mha:
            self._schedules[phase].plan(lengths.clipped(self.dsa_index_topk))
        scored = not self.use_mha and (phase == "decode" or lengths.longest > self.dsa_index_topk)
        if real_rows and scored:
            keys = lengths.keys(real_rows)
            full = self.layers - len(self.shared_layers)
            (self.work.reused if self.selection.knows else self.work.full)(full * real_rows, full * keys)
            self.work.shared(len(self.shared_layers) * real_rows, len(self.shared_layers) * keys)
            if phase == "decode":
                self.selection.count_decode(lengths, real_rows)

    def _use_flags(self) -> None:
        """For forwards that are neither (speculation, which is refused, and graphs of whole prefills)."""
        self._use("sglang", "prefill")
        self._use("sglang", "decode")

    def _use(self, consumer: Consumer, phase: Phase) -> None:
        self._consumer, self._phase = consumer, phase
        self.kernels[phase, "attention"] = consumer
        name = self._flags[phase] if consumer == "sglang" else _SGLANG_NAME[consumer]
        if phase == "prefill":
            # SGLang has settled flashmla_auto by now, and will again for the next batch.
            if name != "flashmla_auto":
                self.dsa_prefill_impl = name
        else:
            self.dsa_decode_impl = name

    # --- in a layer ---

    def _forward_fa3(self, *args: Any, **kwargs: Any) -> Any:
        """SGLang's FA3 call, or FlashInfer in its place: the arguments are named by SGLang's callers."""
        if self._consumer != "flashinfer":
            return super()._forward_fa3(*args, **kwargs)
        return self._schedules[self._phase].run(
            kwargs["q_nope"], kwargs["q_rope"], kwargs["kv_cache"], kwargs["page_table"], kwargs["sm_scale"]
        )

    def select_prefill(self, call: Call) -> torch.Tensor:
        """A Full layer's selection for the rows of a prefill; see cuda_selection.py."""
        return self.selection.prefill(call)

    def select_decode(self, call: Call) -> torch.Tensor:
        """A Full layer's selection for the rows of a decode step; see cuda_selection.py."""
        return self.selection.decode(call)


def _request_rows(forward_batch: Any, lengths: RowLengths) -> int:
    """Rows of requests: warm-up and capture run forwards without any."""
    return len(lengths) if forward_batch.rids else 0


def _host_lengths(forward_batch: Any) -> torch.Tensor:
    """The requests' lengths on the CPU; warm-up batches may have them on the device only."""
    lengths = forward_batch.seq_lens_cpu
    return forward_batch.seq_lens.cpu() if lengths is None else lengths  # type: ignore[no-any-return]


def _fa3_takes(qk_dim: int, v_dim: int) -> bool:
    """Whether FA3 has dense kernels for these head sizes (hopper/flash_api.cpp in flash-attention)."""
    return qk_dim == v_dim or (128 < qk_dim <= 192 and 96 < v_dim <= 128) or (qk_dim <= 64 and v_dim <= 512)
