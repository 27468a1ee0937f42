"""Pictures of the code: seams in SGLang's processes, and rooms as floors."""

from svg import FULL, FULL_PALE, KEPT, KEPT_PALE, LINE, PAPER, QUIET, SHARED, Picture


def seams() -> Picture:
    """Where the plugin touches SGLang, and when each seam proves itself."""
    picture = Picture(920, 360, "Seams: where the plugin is hooked into SGLang's processes, and when it proves itself")
    picture.text(24, 34, "SGLang's processes, and the plugin in them", size=16, bold=True)
    columns = (
        (
            24,
            "main process",
            ("reads the settings", "refuses what cannot work", "proves all seams", "writes the pattern"),
        ),
        (324, "scheduler, one a rank", ("activates by itself", "proves all seams again", "loads the model", "serves")),
        (
            624,
            "backend factory",
            ("last proof", "layers against pattern", "memory, before graphs", "returns the backend"),
        ),
    )
    for x, name, lines in columns:
        picture.box(x, 52, 272, 148, fill=SHARED, radius=6)
        picture.text(x + 16, 76, name, bold=True)
        for number, line in enumerate(lines):
            fill, stroke = (FULL_PALE, FULL) if "proves" in line or "proof" in line else (PAPER, LINE)
            picture.label(x + 16, 88 + number * 26, 240, 21, line, size=12, fill=fill, stroke=stroke)
    picture.arrow((296, 126), (324, 126))
    picture.arrow((596, 126), (624, 126))
    picture.label(
        24,
        222,
        872,
        40,
        "sglang_port/seams/{common, cpu, cuda}: one file a seam: name, hooks, probe. Decides nothing.",
        fill=FULL,
        stroke=FULL,
        colour=PAPER,
        bold=True,
    )
    for x in (160, 460, 760):
        picture.arrow((x, 222), (x, 201), colour=FULL, width=2)
    for number, room in enumerate(("attention/", "indexer/", "store/", "telemetry/", "pattern/ settings/")):
        x = 24 + number * 176
        picture.label(x, 288, 168, 40, room, fill=KEPT_PALE, stroke=KEPT)
        picture.arrow((x + 84, 262), (x + 84, 288), colour=FULL)
    picture.text(
        24,
        348,
        "A seam calls down into the rooms; no room calls a seam. A failed proof ends the process with one sentence.",
        size=12,
        colour=QUIET,
    )
    return picture


def rooms() -> Picture:
    """The rooms as floors: imports go down only."""
    floors = (
        ("cli", "the commands"),
        ("search · quality · distill · bench · nano · top · demo", "tools; loadtest stands beside them"),
        ("overlap", "what selections share"),
        ("live", "start and ask a server"),
        ("results · flags", "written figures; options"),
        ("plugin · sglang_port", "the seams"),
        ("attention", "the backend, one file a consumer"),
        ("indexer", "a Full layer's work"),
        ("store", "records and snapshots"),
        ("telemetry", "counters, events"),
        ("selection", "rows, spans, inputs"),
        ("pattern · settings · stand_ins · kernels", "leaves"),
        ("errors", ""),
    )
    height = 34
    picture = Picture(920, 76 + len(floors) * height, "The rooms as floors: a room imports from floors below it only")
    picture.text(24, 34, "A room imports from the floors below it, never from one above", size=16, bold=True)
    for number, (names, words) in enumerate(floors):
        y = 52 + number * height
        offline = number < 5
        picture.label(
            150,
            y,
            480,
            height - 6,
            names,
            fill=SHARED if offline else FULL_PALE,
            stroke=LINE if offline else FULL,
            bold=True,
        )
        picture.text(646, y + 19, words, size=12, colour=QUIET)
    picture.text(24, 70, "offline", bold=True, colour=QUIET)
    picture.text(24, 70 + 5 * height, "in a server", bold=True, colour=FULL)
    picture.arrow((118, 58), (118, 52 + len(floors) * height - 8), width=2)
    return picture
