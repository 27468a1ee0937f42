"""Each seam is in force, and each is found out when it is broken."""

import importlib
import pkgutil
from typing import Any

import pytest

from sgl_indexcache.sglang_port import proof, registry, version
from sgl_indexcache.sglang_port.base import BrokenSeamError, Hook, SeamError
from sgl_indexcache.sglang_port.seams.cpu import allocator

SEAMS = registry.seams_for("cpu")
HOOKS = [(seam.name, hook) for seam in SEAMS for hook in seam.hooks]


def test_every_seam_is_in_force() -> None:
    assert [(entry.name, entry.detail) for entry in proof.report(SEAMS) if not entry.in_force] == []
    proof.verify("cpu")


def test_every_seam_file_is_registered() -> None:
    package = importlib.import_module("sgl_indexcache.sglang_port")
    files = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    modules = [importlib.import_module(file.name) for file in files]
    declared = [module.SEAM for module in modules if hasattr(module, "SEAM")]
    assert {seam.name for seam in declared} == {seam.name for seam in registry.SEAMS}
    assert len({seam.name for seam in registry.SEAMS}) == len(registry.SEAMS)


def replace_target(monkeypatch: pytest.MonkeyPatch, target: str, value: Any) -> None:
    owner, name = target.rsplit(".", 1)
    monkeypatch.setattr(pkgutil.resolve_name(owner), name, value)


@pytest.mark.parametrize(("seam", "hook"), HOOKS, ids=[hook.target.rsplit(".", 1)[-1] for _, hook in HOOKS])
def test_a_target_that_no_longer_runs_the_hook(seam: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*args: Any, **kwargs: Any) -> None: ...

    replace_target(monkeypatch, hook.target, other)
    with pytest.raises(SeamError, match=f"seam {seam} is not in force"):
        proof.verify("cpu")


@pytest.mark.parametrize(("seam", "hook"), HOOKS, ids=[hook.target.rsplit(".", 1)[-1] for _, hook in HOOKS])
def test_a_target_that_is_gone(seam: str, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = hook.target.rsplit(".", 1)
    monkeypatch.delattr(pkgutil.resolve_name(owner), name)
    # A method may still be found on a base class: then it is there, and is not ours.
    with pytest.raises(BrokenSeamError, match=r"does not exist|does not run the hook"):
        hook.prove()


def test_the_sentence_names_seam_and_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_target(monkeypatch, "sglang.srt.mem_cache.allocation.get_last_loc", lambda: None)
    with pytest.raises(SeamError) as caught:
        proof.verify("cpu")
    sentence = str(caught.value)
    assert "cpu-allocator" in sentence
    assert f"SGLang {version.installed()} found, 0.5.17 supported" in sentence
    assert "\n" not in sentence


def test_another_signature_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def target(backend: str, device: str) -> bool:
        return True

    hooked = Hook("tests.sglang_port.test_seams.probe_target", "around", target, parameters=("device",))
    monkeypatch.setitem(globals(), "probe_target", target)
    with pytest.raises(BrokenSeamError, match=r"takes \(backend, device\), expected \(device\)"):
        hooked.prove()


def test_nothing_installed_is_nothing_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "installed", {})
    with pytest.raises(SeamError, match="no seam is installed for cpu"):
        proof.verify("cpu")


def test_another_sglang_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "installed", lambda: "0.5.23")
    with pytest.raises(SeamError, match=r"seam attention-backend .*SGLang 0\.5\.23 found, 0\.5\.17 supported"):
        proof.verify("cpu")


def test_an_installation_that_fails_is_remembered_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ImportError("sglang.srt.gone")

    monkeypatch.setattr(proof, "installed", {})
    monkeypatch.setattr(proof, "failures", {})
    broken = registry.SEAMS[2].__class__("internal-state", "x", registry.SEAMS[2].devices, register=fails)
    monkeypatch.setattr(registry, "SEAMS", (broken,))
    registry.install("cpu")
    with pytest.raises(SeamError, match=r"internal-state .*ImportError: sglang\.srt\.gone"):
        proof.verify("cpu")


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ("sglang.srt.layers.attention.attention_registry.ATTENTION_BACKENDS", {}),
        ("sglang.srt.server_args.ATTENTION_BACKEND_CHOICES", []),
        (
            "sglang.srt.models.deepseek_common.attention_backend_handler.AttentionBackendRegistry._handlers",
            {},
        ),
        ("sglang.srt.mem_cache.kv_cache_configurator.DSATokenToKVPool", object),
        ("sglang.srt.utils.support_triton", lambda backend: True),
        ("torch.cuda.get_device_capability", lambda device=None: (9, 0)),
    ],
    ids=["factory", "choice", "forward-method", "pool", "triton", "capability"],
)
def test_the_functional_proofs_fire(place: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_target(monkeypatch, place, broken)
    with pytest.raises(SeamError):
        proof.verify("cpu")


def test_the_allocator_proof_fires_on_wrong_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.AllocExtend, "run", staticmethod(lambda *a: None))
    with pytest.raises(SeamError, match="the allocator gave slots"):
        proof.verify("cpu")
