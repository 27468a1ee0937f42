"""Pictures of layers: who runs the indexer, and what a selection is."""

from svg import FULL, FULL_PALE, INK, KEPT, KEPT_PALE, LINE, PAPER, QUIET, SHARED, Picture

PATTERN = "FFSSSFSSSFSS"


def strip() -> Picture:
    """The layers of a model with a pattern, and what each takes from the one before."""
    picture = Picture(920, 330, "Full layers run the indexer, Shared layers reuse the last selection")
    left, step, width = 128, 63, 52
    picture.text(24, 36, "One forward pass, layer by layer", size=16, bold=True)
    picture.text(24, 58, "The indexer scores every earlier token; attention then reads only the k best.", colour=QUIET)
    for row, words in ((100, "layer"), (143, "indexer"), (246, "attention to"), (264, "k tokens")):
        picture.text(24, row, words, colour=QUIET)
    producer = 0.0
    for number, letter in enumerate(PATTERN):
        x = left + number * step
        middle = x + width / 2
        full = letter == "F"
        picture.text(
            middle, 101, letter, size=18, bold=True, colour=FULL if full else QUIET, anchor="middle", mono=True
        )
        if full:
            producer = middle
            picture.label(x, 116, width, 44, "score", "select", fill=FULL, stroke=FULL, colour=PAPER, size=12)
            picture.arrow((middle, 160), (middle, 228), colour=FULL, width=2.5)
        else:
            picture.box(x, 116, width, 44, fill=PAPER, dashed=True)
            picture.text(middle, 142, "skipped", size=11, colour=LINE, anchor="middle")
            picture.arrow((producer, 196), (middle, 196), (middle, 228), colour=FULL, width=1.5)
        picture.box(x, 229, width, 44, fill=FULL_PALE if full else SHARED, stroke=FULL if full else LINE)
        picture.text(middle, 256, "own" if full else "reused", size=12, anchor="middle", colour=INK if full else QUIET)
    picture.text(24, 200, "selection", colour=FULL, bold=True)
    picture.text(24, 306, "F, Full: runs the indexer.", colour=FULL, bold=True)
    picture.text(
        210, 306, "S, Shared: takes the selection of the nearest Full layer before it.", colour=QUIET, bold=True
    )
    return picture


def reuse() -> Picture:
    """What a Full and a Shared layer do with hidden states."""
    picture = Picture(920, 330, "The steps of a Full layer and of a Shared layer")
    picture.text(24, 34, "Full layer", size=15, bold=True, colour=FULL)
    steps = (
        ("project", "queries, gates"),
        ("store", "this token's key"),
        ("score", "all earlier keys"),
        ("select", "k best positions"),
    )
    for number, lines in enumerate(steps):
        x = 40 + number * 160
        picture.label(
            x,
            56,
            124,
            52,
            *lines,
            fill=FULL if number > 1 else FULL_PALE,
            stroke=FULL,
            colour=PAPER if number > 1 else INK,
        )
        if number:
            picture.arrow((x - 36, 82), (x, 82), colour=FULL)
    picture.text(424, 130, "this is the work that grows with the context", size=12, colour=QUIET, anchor="middle")
    picture.label(710, 56, 180, 52, "sparse attention", "reads k cached tokens", fill=SHARED)
    picture.arrow((644, 82), (710, 82), colour=FULL)
    picture.arrow((582, 108), (582, 158), colour=KEPT, width=2)
    picture.label(
        420,
        160,
        324,
        44,
        "selection: int32 [rows, k]",
        "positions in the request, padded with -1",
        fill=KEPT_PALE,
        stroke=KEPT,
        size=12,
    )
    picture.text(406, 180, "SGLang carries it from layer to layer", size=12, colour=QUIET, anchor="end")
    picture.text(406, 196, "(skip_topk, prev_topk_indices)", size=11, colour=QUIET, anchor="end", mono=True)
    picture.text(24, 240, "Shared layer", size=15, bold=True, colour=QUIET)
    for number, lines in enumerate(steps):
        x = 40 + number * 160
        picture.box(x, 256, 124, 44, dashed=True)
        picture.text(x + 62, 283, lines[0], size=12, colour=LINE, anchor="middle")
    picture.label(710, 252, 180, 52, "sparse attention", "to the same k tokens", fill=SHARED)
    picture.arrow((744, 182), (800, 182), (800, 252), colour=KEPT, width=2)
    return picture
