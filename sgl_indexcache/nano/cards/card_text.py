"""The words of the nano model's card; every number in them comes from the raw figures."""

import textwrap

from sgl_indexcache.nano.cards.card_plots import NAMES
from sgl_indexcache.nano.cards.tables import (
    RUN,
    TAIL,
    Figures,
    loss_table,
    lower_bound,
    needle_table,
    percent,
    phases_table,
    recall_table,
    sources_table,
    today,
)
from sgl_indexcache.nano.layout import count_parameters
from sgl_indexcache.nano.training.recipe import NANO

BYTES_A_STEP = 65_536
WIDTH = 118


def wrapped(text: str) -> str:
    """Paragraphs and list items filled to WIDTH; tables, headings, images and code as they are."""
    blocks = []
    for block in text.split("\n\n"):
        if block.lstrip()[:1] in tuple("|#!`<"):
            blocks.append(block)
            continue
        items = ("\n" + block.rstrip("\n")).split("\n- ")
        lines = [textwrap.fill(" ".join(items[0].split()), WIDTH, break_on_hyphens=False)] if items[0].strip() else []
        for item in items[1:]:
            words = " ".join(item.split())
            lines.append(textwrap.fill(f"- {words}", WIDTH, subsequent_indent="  ", break_on_hyphens=False))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks).rstrip("\n") + "\n"


def training_text(figures: Figures) -> str:
    """How the run went, in words."""
    plan, runs = figures.plan, figures.runs
    planned = sum(plan["steps"])
    missing = planned - plan["step"]
    rate = NANO.with_steps(plan["steps"]).at(plan["step"] - 1)[1]
    volume = plan["step"] * BYTES_A_STEP
    corpus = figures.manifest["shards"]["train"]["bytes"]
    commands = "\n".join(today(run["command"]) for run in runs["runs"])
    whole = sum(run["seconds"] for run in runs["runs"])
    times = " and ".join(f"{run['seconds']} s" for run in runs["runs"])
    if missing:
        end = (
            f"It stopped at step {plan['step']:,} of {planned:,}, when its time budget was over. The last {missing} "
            f"steps ({percent(missing / planned)}) were not run: the learning rate had come down to {percent(rate)} "
            "of its peak and was meant to end at 0."
        )
    else:
        end = f"It took all {planned:,} steps."
    return f"""\
One {runs["gpu"]}, torch {runs["torch"]}, in {len(runs["runs"])} runs, the second resuming the first: {times},
{whole / 60:.0f} minutes together, of which {plan["seconds"]:.0f} s were training steps; the rest was start-up,
compilation, the timing of the phases and a quick evaluation. {end} A step is {BYTES_A_STEP:,} bytes, so
{volume / 1e6:,.0f} million bytes were
seen: {volume / corpus:.1f} times the size of the training text.

```
python3 -m sgl_indexcache.nano corpus .gpu-data
{commands}
{today(runs["evaluation"])}
python3 -m sgl_indexcache.nano export OUT/ckpt sgl_indexcache/nano/checkpoint
```

`--fit` times a step of each phase and chooses the numbers of steps, so another machine plans other steps. `OUT` is
any folder; between the two runs its `ckpt` was copied to `.gpu-data/ckpt`."""


def verdict(figures: Figures) -> str:
    """The goals and what was reached."""
    evaluation = figures.evaluation
    longest = str(evaluation["lengths"][-1])
    needle = evaluation["sparse"]["needle"][longest]
    change = evaluation["sparse"]["loss"][longest]["loss"] / evaluation["dense"]["loss"][longest]["loss"] - 1
    right = round(needle["accuracy"] * needle["asked"])
    bound = percent(lower_bound(right, needle["asked"]))

    def word(reached: bool) -> str:
        return "reached" if reached else "NOT reached"

    return "\n".join(
        (
            f"- needles found at {longest} bytes with k = {evaluation['topk']}, goal at least 90%: "
            f"{right} of {needle['asked']} ({word(needle['accuracy'] >= 0.9)}; the share of such needles is at least "
            f"{bound} with 95% confidence);",
            f"- held-out loss at {longest} bytes against the same weights without the mask, goal within 1%: "
            f"{100 * change:+.2f}% ({word(change <= 0.01)}).",
        )
    )


def raw_files() -> str:
    """Links to the raw files, each by what it holds."""
    names = ("evaluation.json", "manifest.json", "metrics.jsonl", "plan.json", "runs.json")
    return ", ".join(f"[{name.partition('.')[0]}](raw/nano/{RUN}-{name})" for name in names)


def card(figures: Figures) -> str:
    """docs/results/nano.md."""
    evaluation = figures.evaluation
    held, train = (figures.manifest["shards"][name] for name in ("heldout", "train"))
    longest, topk = evaluation["lengths"][-1], evaluation["topk"]
    size = count_parameters(figures.config)
    recall = evaluation["recall"][str(longest)]
    windows = evaluation["sparse"]["loss"][str(longest)]["sequences"]
    worst = min(range(len(recall["text"]["mass"])), key=recall["text"]["mass"].__getitem__)
    images = [f"![{name.removesuffix('.png')}]({name})" for name in NAMES]
    return wrapped(f"""\
# The nano model

A DSA language model of {size / 1e6:.2f} million parameters: {figures.config["num_hidden_layers"]} layers with MLA and
{figures.config["index_n_heads"]} indexer heads each, k = {topk}, context {longest:,}, one token a byte.
It exists so that the quality of a pattern can be measured on indexers that have learnt something. It is
no assistant: it continues technical English and answers questions about facts in its context, in the wordings it was
trained on.

Goals and results:

{verdict(figures)}

Measured on the training machine with the training code, weights rounded to bf16 as in the checkpoint, arithmetic in
bf16. This page is generated: `python3 -m sgl_indexcache.nano card`, from {raw_files()}.

## Training

{training_text(figures)}

{phases_table(figures)}

Loss in nats a byte, means of each phase's last {TAIL} log lines, on training text. Mass: share of the attention on the
indexer's top k, averaged over layers and sampled queries, half of them at answers; it means nothing in the sparse
stage, where attention is restricted to the selection. KL is taken over the selection there. The seconds include the
log's own; the last phase's end at the last line of the log, not at the last step.

{images[0]}

Dense trains everything but the indexers. Warm-up trains only the indexers, on the divergence from their layer's
attention. Sparse trains the rest under the top-k mask, and the indexers on the selection. The spikes at the start of
the second and third phase come with positions beyond those trained before.

## Held-out loss

{loss_table(evaluation)}

{images[2]}

- **Dense here is not a model trained densely.** Both columns are the same final weights; dense leaves out the top-k
  mask. These weights were last trained with the mask, so they have adapted to it, and that adaptation
  is the likely reason why the sparse column is the lower one; it is no evidence that sparse attention is better.
  Weights kept dense to the end of the same budget were not trained.
- Held out are pieces of up to 64 KiB of the same packages ({held["bytes"]:,} bytes; {train["bytes"]:,} are trained
  on). Other pieces of the same document can be in training, so this is loss within known sources, not on new ones.
- Both columns see the same windows, drawn at random places of the held-out text ({windows} of {longest:,} bytes).
  No interval was computed. Lengths differ in their windows too, so the fall along a column is only in part an effect
  of length.

## Needles

{needle_table(evaluation)}

{images[1]}

A fact (a key of six random characters, a value of five random digits) stands at one of ten depths in held-out text and
is asked for at the very end. Right means: each of the five digits is the greedy choice. "Among 7 others": seven facts
of the same wording with other keys stand in the text too. Facts stand at multiples of 128 bytes, so in short contexts
several depths are the same place.

- The wordings are the seven that training planted in half of its sequences. Keys and values are drawn anew, so no
  answer can be known by heart, but other wordings, other lengths of key, and reasoning over several facts are not
  tested and should not be expected to work.
- A depth at one length is {evaluation["sparse"]["needle"][str(longest)]["asked"] // 10} needles; one miss is
  {percent(10 / evaluation["sparse"]["needle"][str(longest)]["asked"])}. Differences of a few misses are too small to
  rank dense and sparse.

## What the indexers keep

Share of dense attention's mass (summed over heads) that lies on the indexer's top {topk}, same weights
without the mask, over sampled queries: anywhere in held-out text past position {2 * topk}, and at the
digits of an answer.

{recall_table(evaluation)}

{images[3]}

At {longest:,} bytes the indexers keep {percent(recall["text"]["mean_mass"])} of the mass on
{percent(topk / longest)} of the positions. Layers differ much: layer {worst} keeps least,
{percent(recall["text"]["mass"][worst])}, at a divergence of {recall["text"]["kl"][worst]:.3f} nats from its attention.
The best possible share, on attention's own top {topk}, was not measured, so these figures do not say how much
of the loss is the indexers' fault and how much is attention that is spread too widely for {topk} positions.

## Data

{sources_table(figures.manifest)}

One piece in 64 is held out, by a hash of package, path and piece number. SHA-256 of the packed-together text:
training `{train["sha256"]}`, held out `{held["sha256"]}`. The facts, dialogues and copies are generated during
training (`sgl_indexcache/nano/training/tasks.py`).

## Licence

The weights are published under Apache-2.0, as the rest of this repository. None of the texts is part of it; they stay
under their own licences, listed above, several of them copyleft. Whether such a licence reaches weights that were
trained on a text is not settled; who needs certainty trains anew with other sources
(`sgl_indexcache/nano/training/sources.py`). The model has seen its texts many times and may repeat short passages.
""")


def readme(figures: Figures) -> str:
    """README.md of the checkpoint."""
    config, evaluation = figures.config, figures.evaluation
    longest = str(evaluation["lengths"][-1])
    sparse = evaluation["sparse"]
    needle = sparse["needle"][longest]
    attention = f"MLA, {config['num_attention_heads']} heads, latent {config['kv_lora_rank']}"
    return f"""\
# Nano DSA model

A small byte-level language model with DeepSeek sparse attention, made to measure and show IndexCache: its indexers are
trained, its needles can be found. No assistant. Measurements, limits and recipe:
[docs/results/nano.md](../../../docs/results/nano.md).

| | |
|---|---|
| format | `{config["model_type"]}`, bf16 safetensors, {figures.weights / 1e6:.1f} MB |
| parameters | {count_parameters(figures.config):,} |
| layers, width | {config["num_hidden_layers"]}, {config["hidden_size"]} |
| attention | {attention} + {config["qk_rope_head_dim"]} |
| indexer | {config["index_n_heads"]} heads of {config["index_head_dim"]}, top-k {config["index_topk"]} |
| context | {config["max_position_embeddings"]:,} tokens; a token is a byte |
| held-out loss at {longest} | {sparse["loss"][longest]["loss"]:.3f} nats a byte |
| needles found at {longest} | {percent(needle["accuracy"])} of {needle["asked"]} |
| licence of the weights | Apache-2.0; trained on the texts below, which keep their own licences |

## Load

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "sgl_indexcache/nano/checkpoint"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="eager")
```

Or `sgl-indexcache serve --model-path sgl_indexcache/nano/checkpoint`. Dialogues whose questions it can answer:
`sgl_indexcache.nano.dialogue.demo_dialogue`. A question it knows, asked with greedy decoding:

```
<s>user
The code of Bakomi is 48213.</s><s>assistant
Noted.</s><s>tool
... up to 8,000 bytes of text ...</s><s>user
What is the code of Bakomi?</s><s>assistant
The code of Bakomi is 48213.</s>
```

## Data

{sources_table(figures.manifest)}

Beside these, facts, dialogues and copies are generated during training.
"""
