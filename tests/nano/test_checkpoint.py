"""The trained checkpoint in the repository: its size, its files, and that it finds what it was told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.nano import dialogue
from sgl_indexcache.nano.dialogue import demo_dialogue, render
from sgl_indexcache.nano.shape import NANO

CHECKPOINT = Path(dialogue.__file__).parent / "checkpoint"


def test_size_and_files() -> None:
    sizes = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert sum(sizes.values()) <= 12_000_000
    assert set(sizes) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((CHECKPOINT / "config.json").read_text()) == NANO.config()


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """The model in float32, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model, AutoTokenizer.from_pretrained(CHECKPOINT)


def conversation(seed: int, questions: int, tool_bytes: int) -> tuple[list[dict[str, str]], str]:
    """Messages up to the last question, and its answer."""
    messages: list[dict[str, str]] = []
    answer = ""
    for turn in demo_dialogue(seed, questions, tool_bytes):
        if answer:
            messages.append({"role": "assistant", "content": answer})
        messages += [*turn.messages, {"role": "user", "content": turn.question}]
        answer = turn.answer
    return messages, answer


def test_it_answers_from_its_context(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    messages, answer = conversation(seed=0, questions=2, tool_bytes=350)
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == render(messages)
    begin = tokenizer.encode(prompt, add_special_tokens=False)
    assert 1400 <= len(begin) <= 1700
    # One pass: greedy decoding says the answer exactly if each of its tokens is the likeliest after the ones before.
    says = tokenizer.encode(f"{answer}</s>", add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([begin + says]), use_cache=False).logits[0]
    greedy = logits[len(begin) - 1 : -1].argmax(-1)
    assert tokenizer.decode(greedy) == f"{answer}</s>"


def test_a_dialogue_is_a_function_of_its_seed() -> None:
    assert demo_dialogue(5) == demo_dialogue(5)
    assert demo_dialogue(5) != demo_dialogue(6)


@pytest.mark.parametrize("seed", range(20))
def test_every_question_has_one_answer_far_back(seed: int) -> None:
    text = ""
    turns = demo_dialogue(seed, questions=4, tool_bytes=600)
    assert len({turn.value for turn in turns}) == 4
    for number, turn in enumerate(turns):
        text += "".join(message["content"] for message in turn.messages)
        assert text.count(turn.value) == 1
        assert turn.question[:-1].rsplit(" ", 1)[1] in text
        assert turn.value in turn.answer
        assert turn.distance > number * 600
        assert turn.messages[-1]["role"] == "tool"
