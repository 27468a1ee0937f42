"""Models that the serving tests share."""

from pathlib import Path

import pytest

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

LAYERS = 6


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "glm"
    return write_random_model(folder, RandomModelSpec(architecture="glm_moe_dsa", layers=LAYERS, moe=True))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that SGLang serves on the CPU without us."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    folder = tmp_path_factory.mktemp("models") / "llama"
    LlamaForCausalLM(config).float().save_pretrained(folder)
    return folder
