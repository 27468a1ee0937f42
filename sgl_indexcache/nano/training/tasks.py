"""Sequences to learn from: windows of text, some of them with facts planted and asked for, or with a copy.

Everything is drawn on the model's device by one generator, so a step's batch is a function of the seed and
the step alone and costs no time of the host. Phrases overwrite text, they do not shift it.
"""

from typing import NamedTuple

import torch

from sgl_indexcache.nano.phrases import (
    CHAT,
    KEY_CODE,
    KEY_LENGTH,
    LEAD,
    PLAIN,
    SLOT,
    VALUE_CODE,
    VALUE_LENGTH,
    Phrases,
    encode,
)
from sgl_indexcache.nano.tokenizer import EOS_ID
from sgl_indexcache.nano.training.corpus import BOUNDARY
from sgl_indexcache.nano.training.recipe import Mix


class Batch(NamedTuple):
    """B sequences of T tokens, each with the token that follows it.

    tokens, targets  int64 [B, T]
    weights          float32 [B, T], of the loss at each target
    answers          bool [B, T], targets that belong to an answer
    digits           bool [B, T], those that are the value asked for
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    answers: torch.Tensor
    digits: torch.Tensor


class Plan(NamedTuple):
    """Facts to write into B sequences, P a sequence: all int64 [B, P], `active` bool.

    statement, question  first token of each
    family               row of the phrase tables
    """

    statement: torch.Tensor
    question: torch.Tensor
    family: torch.Tensor
    active: torch.Tensor


def windows(text: torch.Tensor, batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Random windows int64 [batch, length] of the text, uint8 [bytes]; boundaries become end of sequence."""
    starts = torch.randint(0, text.numel() - length, (batch, 1), generator=generator, device=text.device)
    tokens = text[starts + torch.arange(length, device=text.device)].long()
    return tokens.masked_fill(tokens == BOUNDARY, EOS_ID)


def draw_plan(batch: int, length: int, share: float, generator: torch.Generator) -> Plan:
    """Facts at random places: a share of the sequences gets one fact up to as many as there is room for.

    In half of these sequences all questions stand in the last quarter and all statements before it; in the
    others both stand anywhere, the statement first.
    """
    device = generator.device

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    slots = (length - len(encode(LEAD))) // SLOT
    pairs = slots // 2
    anywhere = uniform(batch, slots).argsort(1)[:, : 2 * pairs].view(batch, pairs, 2)
    early, late = anywhere.amin(-1), anywhere.amax(-1)
    last = max(1, slots // 4)
    front = uniform(batch, slots - last).argsort(1)
    back = uniform(batch, last).argsort(1) + slots - last
    room = min(front.shape[1], last)
    grouped = uniform(batch, 1) < 0.5
    fits = torch.arange(pairs, device=device) < room
    pad = (0, max(0, pairs - room))
    front_padded = torch.nn.functional.pad(front[:, :room], pad)[:, :pairs]
    back_padded = torch.nn.functional.pad(back[:, :room], pad)[:, :pairs]
    early = torch.where(grouped, front_padded, early)
    late = torch.where(grouped, back_padded, late)
    # Squared: few facts are more common than many.
    count = 1 + (uniform(batch, 1).square() * pairs).long()
    active = (torch.arange(pairs, device=device) < count) & (uniform(batch, 1) < share)
    active &= torch.where(grouped, fits, torch.ones_like(fits))
    chat = uniform(batch, 1) < 0.5
    choice = uniform(batch, pairs)
    family = torch.where(chat, len(PLAIN) + (choice * len(CHAT)).long(), (choice * len(PLAIN)).long())
    lead = len(encode(LEAD))
    return Plan(early * SLOT + lead, late * SLOT + lead, family, active)


def write_facts(
    sequence: torch.Tensor, plan: Plan, tables: Phrases, weight: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Overwrite parts of `sequence` int64 [B, S] by the plan's phrases, in place, with fresh keys and values.

    Gives weights float32, answers bool and digits bool, each [B, S] and aligned to the tokens themselves.
    """
    batch, width = sequence.shape
    device = sequence.device
    pairs = plan.statement.shape[1]

    def draw(high: torch.Tensor, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=generator, device=device) * high).long()

    style = draw(torch.tensor(len(tables.key_counts), device=device), batch, pairs)
    place = draw(tables.key_counts[style], batch, pairs, KEY_LENGTH)
    key = tables.key_letters[style].gather(-1, place[..., None])[..., 0]
    value = draw(torch.tensor(10, device=device), batch, pairs, VALUE_LENGTH) + ord("0")
    # One column more: what must not be written goes there.
    wide = torch.cat((sequence, sequence[:, :1]), 1)
    weights = torch.ones(batch, width + 1, device=device)
    answers = torch.zeros(batch, width + 1, dtype=torch.bool, device=device)
    digits = torch.zeros_like(answers)
    rows = torch.arange(batch, device=device)[:, None, None]
    for begin, table in ((plan.statement, tables.statement), (plan.question, tables.question)):
        template = table[plan.family]
        is_key = (template >= KEY_CODE) & (template < VALUE_CODE)
        is_value = template >= VALUE_CODE
        tokens = torch.where(is_key, key.gather(-1, (template - KEY_CODE).clamp(0, KEY_LENGTH - 1)), template)
        tokens = torch.where(is_value, value.gather(-1, (template - VALUE_CODE).clamp(0, VALUE_LENGTH - 1)), tokens)
        at = begin[..., None] + torch.arange(SLOT, device=device)
        at = torch.where((template >= 0) & plan.active[..., None], at, width).clamp(max=width)
        answer = tables.answer[plan.family] & (table is tables.question)
        wide[rows, at] = tokens
        weights[rows, at] = torch.where(answer, weight, torch.where(is_key | is_value, 0.0, 1.0))
        answers[rows, at] = answer
        digits[rows, at] = tables.digits[plan.family] & (table is tables.question)
    sequence.copy_(wide[:, :width])
    # A sequence with chat phrases begins as a chat does.
    chat = (plan.active & (plan.family >= len(PLAIN))).any(1, keepdim=True)
    lead = torch.tensor(encode(LEAD), device=device)
    sequence[:, : len(lead)] = torch.where(chat, lead, sequence[:, : len(lead)])
    return weights[:, :width], answers[:, :width], digits[:, :width]


def copy_spans(sequence: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Sequences [B, S] of which a share repeats, in the second half, a span of the first half."""
    batch, width = sequence.shape
    device = sequence.device

    def draw(high: int) -> torch.Tensor:
        return torch.randint(0, max(1, high), (batch, 1), generator=generator, device=device)

    span = max(16, min(512, width // 4))
    source, target = draw(width // 2 - span), width // 2 + draw(width - width // 2 - span)
    at = torch.arange(width, device=device).expand(batch, -1)
    chosen = torch.rand(batch, 1, generator=generator, device=device) < share
    inside = (at >= target) & (at < target + span) & chosen
    return sequence.gather(1, torch.where(inside, at - target + source, at))


def make_batch(
    text: torch.Tensor, batch: int, length: int, mix: Mix, tables: Phrases, generator: torch.Generator
) -> Batch:
    """A batch to train on; `generator` lives on the text's device."""
    sequence = windows(text, batch, length + 1, generator)
    sequence = copy_spans(sequence, mix.copies, generator)
    plan = draw_plan(batch, length, mix.facts, generator)
    marks = write_facts(sequence, plan, tables, mix.answer_weight, generator)
    weights, answers, digits = (mark[:, 1:] for mark in marks)
    return Batch(sequence[:, :-1], sequence[:, 1:].contiguous(), weights, answers, digits)


def needle_batch(
    text: torch.Tensor,
    length: int,
    depths: torch.Tensor,
    family: torch.Tensor,
    distractors: int,
    tables: Phrases,
    generator: torch.Generator,
) -> Batch:
    """Sequences of exactly `length` tokens with one fact at a given depth, asked for at the very end.

    text         uint8 [bytes], held-out text for the haystack
    length       tokens, the answer included
    depths       float [B] in [0, 1]: 0 is the beginning, 1 right before the question
    family       int64 [B] rows of FAMILIES
    distractors  other facts of the same family, at random places
    tables       of the phrases
    generator    for text, keys and values
    """
    batch = depths.numel()
    device = text.device
    sequence = windows(text, batch, length + 1, generator)
    lead = len(encode(LEAD))
    question = length + 1 - (tables.question >= 0).sum(-1)[family]
    slots = (length - lead) // SLOT - 1
    needle = (depths.to(device) * (slots - 1)).round().long()
    others = torch.rand(batch, slots, generator=generator, device=device)
    others.scatter_(1, needle[:, None], 2.0)
    slot = torch.cat((needle[:, None], others.argsort(1)[:, :distractors]), 1)
    statement = slot * SLOT + lead
    # The distractors first: their questions lie past the end, where nothing is written.
    if distractors:
        rest = statement[:, 1:]
        beyond = torch.full_like(rest, sequence.shape[1])
        plan = Plan(rest, beyond, family[:, None].expand_as(rest), torch.ones_like(rest, dtype=torch.bool))
        write_facts(sequence, plan, tables, 1.0, generator)
    first = statement[:, :1]
    plan = Plan(first, question[:, None], family[:, None], torch.ones_like(first, dtype=torch.bool))
    weights, answers, digits = (mark[:, 1:] for mark in write_facts(sequence, plan, tables, 1.0, generator))
    return Batch(sequence[:, :-1], sequence[:, 1:].contiguous(), weights, answers, digits)
