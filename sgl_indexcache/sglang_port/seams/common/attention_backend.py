"""Seam: the attention backend `indexcache`, and the last self-check before a scheduler serves.

The factory runs in every scheduler process after the model is loaded and before graphs are captured
(model_runner_components/attention_backend_setup.py). It fails closed: no backend, no server.
"""

from typing import TYPE_CHECKING, Any

from sgl_indexcache.attention.base import Backend
from sgl_indexcache.errors import UserError
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Settings
from sgl_indexcache.sglang_port import index_store, runtime, two_level
from sgl_indexcache.sglang_port.base import BACKEND_NAME, BOTH, BrokenSeamError, Seam, SeamError
from sgl_indexcache.sglang_port.proof import device_of_process, stop, verify
from sgl_indexcache.store import IndexStore, SnapshotSlots

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner


def _register() -> None:
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
    from sglang.srt.models.deepseek_common.utils import FORWARD_ABSORB_CORE_ATTENTION_BACKENDS
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES, add_attention_backend_choices

    if BACKEND_NAME not in ATTENTION_BACKEND_CHOICES:
        add_attention_backend_choices([BACKEND_NAME])
    register_attention_backend(BACKEND_NAME)(create)
    # An unknown name falls to the triton handler, which prefills densely, without a selection.
    AttentionBackendRegistry.register(BACKEND_NAME, _forward_method)
    # Without it fmla.py concatenates rope and latent parts and drops the separate ones (fmla:989).
    if BACKEND_NAME not in FORWARD_ABSORB_CORE_ATTENTION_BACKENDS and not _cpu():
        FORWARD_ABSORB_CORE_ATTENTION_BACKENDS.append(BACKEND_NAME)


def _cpu() -> bool:
    return device_of_process() == "cpu"


def _forward_method(attention: Any, forward_batch: Any) -> Any:
    """How a layer computes attention: always absorbed MLA on the CPU, SGLang's own choice for DSA on CUDA."""
    if _cpu():
        from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import (
            AttnForwardMethod,
        )

        return AttnForwardMethod.MLA
    from sglang.srt.models.deepseek_common.attention_backend_handler import handle_attention_dsa

    return handle_attention_dsa(attention, forward_batch)


def create(model_runner: "ModelRunner") -> Any:
    """The backend of this scheduler. Prints one sentence and exits the process when anything is amiss."""
    try:
        return _create(model_runner)
    except UserError as error:
        stop(error)


def _create(model_runner: "ModelRunner") -> Any:
    device = device_of_process()
    if str(model_runner.device) != device:
        raise SeamError(f"the model runs on {model_runner.device}, but the seams were installed for {device}")
    verify(device)
    pattern = Pattern.of_config(model_runner.model_config.hf_text_config)
    check_carry(model_runner.model, pattern)
    settings = runtime.current.settings
    store = index_store.build(model_runner, pattern, settings.store, device)
    backend = (_on_cpu if device == "cpu" else _on_cuda)(model_runner, pattern, settings, store)
    runtime.current.pattern, runtime.current.backend, runtime.current.store = pattern, backend, store
    return backend


def _on_cpu(model_runner: "ModelRunner", pattern: Pattern, settings: Settings, store: SnapshotSlots | None) -> Backend:
    from sgl_indexcache.attention.cpu import IndexCacheCpuBackend

    backend = IndexCacheCpuBackend(model_runner, settings.kernels.scratch_mib << 20, pattern)
    if isinstance(store, IndexStore):
        backend.store = store
    backend.two_level = two_level.on_cpu(model_runner, pattern, settings)
    return backend


def _on_cuda(model_runner: "ModelRunner", pattern: Pattern, settings: Settings, store: SnapshotSlots | None) -> Backend:
    from sgl_indexcache.attention.cuda import IndexCacheCudaBackend

    backend = IndexCacheCudaBackend(model_runner, settings.kernels, pattern)
    backend.selection.snapshots = index_store.snapshots(store, model_runner)
    backend.selection.two_level, backend.selection.decode_lists = two_level.on_cuda(model_runner, pattern, settings)
    return backend


def check_carry(model: Any, pattern: Pattern) -> None:
    """Raise SeamError unless every layer of the loaded model reuses or selects as the pattern says.

    SGLang's carry follows `skip_topk` (models/deepseek_v2.py:1822-1858).
    """
    layers = model.model.layers
    loaded = "".join("S" if layer.self_attn.skip_topk else "F" for layer in layers)
    if loaded != str(pattern):
        raise SeamError(
            f"the pattern in force in the model is {loaded}, but {pattern} was asked for; "
            "check --json-model-override-args for index_topk settings of its own"
        )


def _probe() -> str:
    from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
    from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry
    from sglang.srt.models.deepseek_common.utils import FORWARD_ABSORB_CORE_ATTENTION_BACKENDS
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES

    if BACKEND_NAME not in ATTENTION_BACKEND_CHOICES:
        raise BrokenSeamError(f"{BACKEND_NAME} is no choice of --attention-backend")
    if ATTENTION_BACKENDS.get(BACKEND_NAME) is not create:
        raise BrokenSeamError(f"the factory of {BACKEND_NAME} is not ours")
    if AttentionBackendRegistry.get_handler(BACKEND_NAME) is not _forward_method:
        raise BrokenSeamError(f"the forward method of {BACKEND_NAME} is not ours")
    if not _cpu() and BACKEND_NAME not in FORWARD_ABSORB_CORE_ATTENTION_BACKENDS:
        raise BrokenSeamError(f"{BACKEND_NAME} is not among the backends that take split rope arguments")
    return f"--attention-backend {BACKEND_NAME} is registered"


SEAM = Seam(
    name="attention-backend",
    purpose=f"register --attention-backend {BACKEND_NAME}",
    devices=BOTH,
    register=_register,
    probe=_probe,
)
