"""A byte-level tokenizer made offline: the 256 bytes, three special tokens, a chat template.

A token id below 256 is the byte of that value, so a prompt can be written as bytes and read back by eye, and
no text is out of vocabulary. Files follow the Hugging Face layout (tokenizer.json, tokenizer_config.json).
"""

import json
from pathlib import Path

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BOS_ID, EOS_ID, PAD_ID = 256, 257, 258
"""The last ids; a model's vocabulary may be larger, and ids past these decode to nothing."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<s>{{ message['role'] }}\n{{ message['content'] }}</s>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""Jinja. A turn is <s>, the role, a newline, the content, </s>."""


def byte_letters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary, by byte value.

    The convention is GPT-2's, which the `tokenizers` library implements: a byte that prints as one visible
    Latin-1 character stands for itself, the others take the code points from 256 on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 256
    for byte in range(256):
        if byte in visible:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


def write_tokenizer(folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`, which must exist.

    `decode(encode(text)) == text` for every text that UTF-8 can encode. The names of the special tokens are
    recognised in text, which the chat template needs.

    folder      where to write; files of the same names are replaced
    max_length  longest sequence of the model, in tokens
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # type: ignore[import-untyped]

    letters = byte_letters()
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    # A splitting regex or an added space would cost the exact round trip.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS, PAD])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
