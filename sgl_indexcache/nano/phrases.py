"""The phrases that plant a fact and ask for it later, as token templates.

A fact is a key of six characters and a value of five digits, both drawn anew each time. In a template {K} and
{V} stand for them, <s> and </s> for the special tokens; in a question, what follows the bar is the answer.
Plain phrases stand in running text; chat phrases end a message, say their part and open the next message, so
that the running text around them becomes the output of a tool.
"""

from typing import NamedTuple

import torch

from sgl_indexcache.nano.tokenizer import BOS_ID, EOS_ID

KEY_LENGTH = 6
VALUE_LENGTH = 5
KEY_CODE = 512
"""Code of the key's first character in a template; the others follow. VALUE_CODE likewise."""
VALUE_CODE = 544
SLOT = 128
"""Tokens of the slot that a phrase is put into; every phrase is shorter."""
LEAD = "<s>user\n"
"""What a sequence with chat phrases begins with."""

PLAIN = (
    ("\nThe code of {K} is {V}.\n", "\nThe code of {K} is|{V}.\n"),
    ("\n{K}: {V}\n", "\n{K}:|{V}\n"),
    (
        "\nRemember: the number of {K} is {V}.\n",
        "\nQuestion: what is the number of {K}?\nAnswer: the number of|{K} is {V}.\n",
    ),
    ('\n{"name": "{K}", "value": {V}}\n', '\n{"name": "{K}", "value":|{V}}\n'),
)
CHAT = (
    (
        "</s><s>user\nThe code of {K} is {V}.</s><s>assistant\nNoted.</s><s>tool\n",
        "</s><s>user\nWhat is the code of {K}?</s><s>assistant\n|The code of {K} is {V}.</s><s>tool\n",
    ),
    (
        "\nThe order number of {K} is {V}.\n",
        "</s><s>user\nWhat is the order number of {K}?</s><s>assistant\n|The order number of {K} is {V}.</s><s>tool\n",
    ),
    (
        '\n{"name": "{K}", "value": {V}}\n',
        "</s><s>user\nWhich value has {K}?</s><s>assistant\n|The value of {K} is {V}.</s><s>tool\n",
    ),
)
FAMILIES = PLAIN + CHAT

_CONSONANTS, _VOWELS = "bdfghjklmnprstvwz", "aeiou"
KEY_STYLES = (
    # A name that can be spoken, random letters, capitals and digits.
    (_CONSONANTS.upper(), _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS),
    ("abcdefghijklmnopqrstuvwxyz",) * KEY_LENGTH,
    ("ABCDEFGHJKLMNPQRSTUVWXYZ23456789",) * KEY_LENGTH,
)


class Phrases(NamedTuple):
    """The templates of every family as tensors; F families, L = SLOT.

    statement, question  int64 [F, L] token ids and codes, -1 padded
    answer               bool [F, L], the part of a question that the model is to say
    digits               bool [F, L], the value within that part
    key_letters          int64 [styles, KEY_LENGTH, letters]
    key_counts           int64 [styles, KEY_LENGTH], letters of each place
    """

    statement: torch.Tensor
    question: torch.Tensor
    answer: torch.Tensor
    digits: torch.Tensor
    key_letters: torch.Tensor
    key_counts: torch.Tensor


def encode(text: str) -> list[int]:
    """Token ids of a template, with codes for {K} and {V}."""
    special = {
        "<s>": [BOS_ID],
        "</s>": [EOS_ID],
        "{K}": list(range(KEY_CODE, KEY_CODE + KEY_LENGTH)),
        "{V}": list(range(VALUE_CODE, VALUE_CODE + VALUE_LENGTH)),
    }
    ids: list[int] = []
    while text:
        mark = next((m for m in special if text.startswith(m)), "")
        ids += special[mark] if mark else text[0].encode()
        text = text[len(mark) or 1 :]
    return ids


def phrases(device: torch.device) -> Phrases:
    """The tables on a device."""
    shape = (len(FAMILIES), SLOT)
    statement, question = torch.full(shape, -1), torch.full(shape, -1)
    answer = torch.zeros(shape, dtype=torch.bool)
    for number, (says, asks) in enumerate(FAMILIES):
        ids = encode(says)
        statement[number, : len(ids)] = torch.tensor(ids)
        before, _, after = asks.partition("|")
        # A plain answer stands after a space that the bar replaced.
        head = encode(before + ("" if before.endswith("\n") else " "))
        ids = head + encode(after)
        question[number, : len(ids)] = torch.tensor(ids)
        answer[number, len(head) : len(ids)] = True
        # The message that a chat phrase opens next is no part of the answer.
        if after.endswith("<s>tool\n"):
            answer[number, len(ids) - len(encode("<s>tool\n")) : len(ids)] = False
    digits = answer & (question >= VALUE_CODE)
    widest = max(len(letters) for style in KEY_STYLES for letters in style)
    letters = torch.zeros(len(KEY_STYLES), KEY_LENGTH, widest, dtype=torch.long)
    counts = torch.zeros(len(KEY_STYLES), KEY_LENGTH, dtype=torch.long)
    for style, places in enumerate(KEY_STYLES):
        for place, choice in enumerate(places):
            letters[style, place, : len(choice)] = torch.tensor(list(choice.encode()))
            counts[style, place] = len(choice)
    return Phrases(*(t.to(device) for t in (statement, question, answer, digits, letters, counts)))
