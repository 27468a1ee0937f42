"""Every unsupported combination is refused by name, and nothing else is."""

from types import SimpleNamespace
from typing import Any

import pytest

from sgl_indexcache.sglang_port.refusals import REFUSALS, RefusedError, check

PLAIN: dict[str, Any] = {
    "attention_backend": "indexcache",
    "prefill_attention_backend": None,
    "decode_attention_backend": None,
    "enable_hierarchical_cache": False,
    "enable_hisparse": False,
    "enable_lmcache": False,
    "enable_two_batch_overlap": False,
    "enable_prefill_cp": False,
    "attn_cp_size": 1,
    "dcp_size": 1,
    "pp_size": 1,
    "speculative_algorithm": None,
    "enable_streaming_session": False,
    "enable_session_radix_cache": False,
    "dsa_prefill_backend": None,
    "dsa_decode_backend": None,
    "enable_torch_compile": False,
    "enable_return_indexer_topk": True,
    "enable_mixed_chunk": False,
    "kv_cache_dtype": "auto",
    "device": "cpu",
}

ASKED: list[tuple[dict[str, Any], str]] = [
    ({"enable_hierarchical_cache": True}, "HiCache"),
    ({"enable_hisparse": True}, "HiSparse"),
    ({"enable_lmcache": True}, "LMCache"),
    ({"enable_two_batch_overlap": True}, "two-batch overlap"),
    ({"enable_prefill_cp": True}, "prefill context parallelism"),
    ({"attn_cp_size": 2}, "prefill context parallelism"),
    ({"dcp_size": 2}, "decode context parallelism"),
    ({"pp_size": 2}, "pipeline parallelism"),
    ({"speculative_algorithm": "EAGLE"}, "speculative decoding"),
    ({"enable_streaming_session": True}, "streaming sessions"),
    ({"enable_session_radix_cache": True}, "session radix cache"),
    ({"dsa_decode_backend": "trtllm"}, "trtllm"),
    ({"enable_torch_compile": True}, "--enable-torch-compile"),
    ({"kv_cache_dtype": "fp8_e4m3"}, "returning selections"),
    (
        {"enable_mixed_chunk": True, "kv_cache_dtype": "fp8_e4m3", "dsa_prefill_backend": "flashmla_sparse"}
        | {"enable_return_indexer_topk": False},
        "mixed chunks",
    ),
    ({"decode_attention_backend": "dsa"}, "different attention backends"),
    ({"device": "xpu"}, "device xpu"),
    ({"device": "cuda"}, "device cuda"),
]


def test_plain_arguments_pass() -> None:
    check(SimpleNamespace(**PLAIN), "cpu")
    check(SimpleNamespace(**{**PLAIN, "device": None}), "cpu")


@pytest.mark.parametrize(("flags", "name"), ASKED, ids=[name + str(list(flags)) for flags, name in ASKED])
def test_refused_by_name_with_what_to_do(flags: dict[str, Any], name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check(SimpleNamespace(**{**PLAIN, **flags}), "cpu")
    sentence = str(caught.value)
    assert name in sentence
    assert "is not supported with indexcache" in sentence
    assert "\n" not in sentence
    assert len(sentence.split(": ", 1)[1]) > 10


def test_every_refusal_has_a_case() -> None:
    fired = {r.name for flags, _ in ASKED for r in REFUSALS if r.applies(SimpleNamespace(**{**PLAIN, **flags}))}
    assert fired == {refusal.name for refusal in REFUSALS}


def test_the_flags_exist_in_sglang() -> None:
    import dataclasses

    from sglang.srt.server_args import ServerArgs

    assert set(PLAIN) <= {field.name for field in dataclasses.fields(ServerArgs)}
