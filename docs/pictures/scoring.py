"""Pictures of long contexts: two-level scoring, and what is kept beside a prefix."""

from svg import FULL, FULL_PALE, INK, KEPT, KEPT_PALE, LINE, PAPER, QUIET, SHARED, Picture


def two_level() -> Picture:
    """Pages, their summaries, a shortlist, the keys that are scored, and the guard beside it."""
    picture = Picture(
        920, 420, "Two-level scoring: pages are shortlisted by their summaries, then their keys are scored"
    )
    left, step, width, pages = 150, 31, 25, 24
    listed = {0, 4, 5, 11, 16, 21, 22}
    picture.text(24, 36, "One query over a long context", size=16, bold=True)
    picture.text(24, 76, "1  summaries", bold=True)
    picture.text(24, 93, "a mean key each", size=11, colour=QUIET)
    picture.text(24, 160, "2  shortlist", bold=True)
    picture.text(24, 177, "the best pages", size=11, colour=QUIET)
    picture.text(24, 238, "3  keys", bold=True)
    picture.text(24, 255, "64 a listed page", size=11, colour=QUIET)
    picture.text(24, 318, "4  selection", bold=True)
    picture.text(24, 335, "the k best keys", size=11, colour=QUIET)
    for page in range(pages):
        x = left + page * step
        picture.box(x, 62, width, 32, fill=KEPT_PALE if page < pages - 1 else PAPER, stroke=KEPT, radius=3)
        chosen = page in listed or page == pages - 1
        if chosen:
            picture.arrow((x + width / 2, 94), (x + width / 2, 146), colour=FULL)
        picture.box(
            x,
            146,
            width,
            32,
            fill=FULL_PALE if chosen else PAPER,
            stroke=FULL if chosen else LINE,
            radius=3,
            dashed=not chosen,
        )
        for key in range(8):
            y = 224 + key * 5
            if chosen:
                best = (page * 5 + key * 3) % 11 < 2
                picture.box(x + 2, y, width - 4, 3.5, fill=FULL if best else FULL_PALE, stroke="none", radius=1)
        if chosen:
            picture.arrow((x + width / 2, 178), (x + width / 2, 222), colour=FULL)
            picture.arrow((x + width / 2, 265), (x + width / 2, 302), colour=FULL)
    for page, words in ((0, "first"), (pages - 2, "window"), (pages - 1, "own")):
        anchor, x = ("end", width) if words == "window" else ("start", 0)
        picture.text(left + page * step + x, 54, words, size=11, colour=QUIET, anchor=anchor)
    picture.label(
        left,
        303,
        pages * step - 6,
        34,
        "k positions, as exact scoring would give them but for what lies outside the list",
        fill=FULL,
        stroke=FULL,
        colour=PAPER,
    )
    picture.label(
        left,
        362,
        pages * step - 6,
        40,
        "guard: some queries are scored exactly too; a layer whose recall is below the floor",
        "goes back to exact scoring for that context",
        fill=KEPT_PALE,
        stroke=KEPT,
        size=12,
    )
    picture.text(24, 386, "5  recall", bold=True)
    return picture


def index_store() -> Picture:
    """What is kept beside a cached prefix: records under its pages, a snapshot at its end."""
    picture = Picture(920, 350, "The index store: page records under KV pages, tail snapshots at the end of a prefix")
    left, step, width = 150, 72, 62
    picture.text(24, 34, "A cached prefix and its next request", size=16, bold=True)
    picture.text(24, 84, "KV pages", bold=True)
    picture.text(24, 101, "64 tokens each", size=11, colour=QUIET)
    picture.text(24, 160, "page records", bold=True, colour=KEPT)
    picture.text(24, 177, "by page id", size=11, colour=QUIET)
    for page in range(10):
        x = left + page * step
        cached = page < 8
        picture.label(
            x,
            64,
            width,
            44,
            f"page {page}" if cached else "new",
            fill=SHARED if cached else PAPER,
            size=12,
            dashed=not cached,
            colour=INK if cached else QUIET,
        )
        if cached:
            picture.label(x, 146, width, 44, "summary", "counts", fill=KEPT_PALE, stroke=KEPT, size=11)
            picture.arrow((x + width / 2, 108), (x + width / 2, 146), colour=KEPT, dashed=True)
    picture.text(left + 4 * step - 5, 56, "prefix, in SGLang's radix tree", size=11, colour=QUIET, anchor="middle")
    picture.text(left + 9 * step - 5, 56, "this turn", size=11, colour=QUIET, anchor="middle")
    picture.text(24, 252, "tail snapshot", bold=True, colour=KEPT)
    picture.text(24, 269, "at the prefix's end", size=11, colour=QUIET)
    x = left + 5 * step
    picture.label(
        x, 226, 3 * step - 26, 52, "last rows' selections,", "of every Full layer", fill=KEPT_PALE, stroke=KEPT, size=12
    )
    end = left + 8 * step - 5
    picture.arrow((end, 64), (end, 252), (end - 21, 252), colour=KEPT, dashed=True)
    picture.label(
        left,
        226,
        4 * step - 10,
        52,
        "the same prefill again:",
        "rows are read, not scored",
        fill=FULL_PALE,
        stroke=FULL,
        size=12,
    )
    picture.arrow((x, 252), (left + 4 * step - 10, 252), colour=FULL, width=2)
    picture.label(
        left + 8 * step,
        146,
        2 * step - 10,
        44,
        "a long turn lists",
        "pages by summary",
        fill=FULL_PALE,
        stroke=FULL,
        size=11,
    )
    picture.text(
        24,
        318,
        "A record goes when its page is written anew, a snapshot with its prefix or to make room. Both are bounded",
        size=12,
        colour=QUIET,
    )
    picture.text(24, 335, "in bytes, taken at start-up. Nothing crosses a cache salt.", size=12, colour=QUIET)
    return picture
