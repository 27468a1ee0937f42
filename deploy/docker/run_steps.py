#!/usr/bin/env python3
"""Carry out a Dockerfile's steps with chroot, to check them where there is no container engine. Linux, as root.

    python deploy/docker/run_steps.py deploy/docker/cpu.Dockerfile --work /tmp/steps --serve \\
        --base python:3.11-slim-bookworm=/tmp/bookworm

A base is a folder with a root file system (debootstrap makes one). This is no container engine: no layers, no cache,
no network of its own, and of the language only what our Dockerfiles use; anything else is refused. `--serve` then
runs ENTRYPOINT and CMD as the image's user on a read-only root with the volumes empty, waits for the HEALTHCHECK,
sends SIGTERM and tells the exit code.
"""

import argparse
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\?([^}]*))?\}|(\w+))")


@dataclass
class Stage:
    """A stage's root folder and what its instructions have set."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction, continuation lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined.splitlines()]


def expand(text: str, values: dict[str, str]) -> str:
    """`$NAME`, `${NAME}` and `${NAME:?word}`, which ends the run when NAME is empty."""

    def value(match: "re.Match[str]") -> str:
        name = match[1] or match[3]
        if not values.get(name) and match[2] is not None:
            sys.exit(f"error: {name}: {match[2]}")
        return values.get(name, "")

    return _VARIABLE.sub(value, text)


def chroot(stage: Stage, command: list[str], binds: list[str], *, read_only: bool = False) -> list[str]:
    """The command line that runs `command` in the stage, in mount and process namespaces of its own."""
    root = str(stage.root)
    steps = ["set -e", f"mount --bind {root} {root}"]
    steps += [f"mkdir -p {root}{path} && mount --rbind {path} {root}{path}" for path in ["/dev", *binds]]
    steps += [f"mount -t proc proc {root}/proc && mount -t sysfs -o ro sysfs {root}/sys"]
    if read_only:
        uid, gid = stage.user.split(":")
        steps += [f"mkdir -p {root}{path}" for path in stage.volumes]
        steps += [f"mount -o remount,bind,ro {root}"]
        steps += [f"mount -t tmpfs -o uid={uid},gid={gid},mode=0700 tmpfs {root}{path}" for path in stage.volumes]
    settings = ["env", "-i", *(f"{name}={value}" for name, value in stage.environment.items())]
    inside = f'cd "{stage.folder}" && exec "$@"'
    steps += ['exec chroot --userspec="$0" ' + f'{root} "$@"']
    shell = ["sh", "-c", "; ".join(steps), stage.user, *settings, "sh", "-c", inside, "sh", *command]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child=TERM", *shell]


def copy(stage: Stage, rest: str, context: Path, ignore: list[str], stages: dict[str, Stage]) -> None:
    """COPY [--from=STAGE] SOURCE... TARGET."""
    words = rest.split()
    root, ignored = context, ignore
    if words[0].startswith("--from="):
        root, ignored = stages[words.pop(0).removeprefix("--from=")].root, []
    if any(word.startswith("--") for word in words):
        sys.exit(f"error: COPY {rest}: only --from is understood")
    *sources, target = words
    place = stage.root / os.path.join(stage.folder, target).lstrip("/")
    for source in sources:
        found = root / source.lstrip("/")
        if found.is_dir():
            leave_out = None if not ignored else lambda folder, names: _ignored(context, folder, names, ignored)
            shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=leave_out)
        else:
            into = place / found.name if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, into)


def _ignored(context: Path, folder: str, names: list[str], rules: list[str]) -> set[str]:
    """Of a folder's names those that .dockerignore leaves out: the last rule that matches decides."""
    out = set()
    for name in names:
        path = (Path(folder) / name).relative_to(context).as_posix()
        wanted = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            parents = [path, *map(str, Path(path).parents)]
            hit = fnmatch.fnmatch(name, pattern) if "**/" in rule else any(fnmatch.fnmatch(p, pattern) for p in parents)
            opens = rule.startswith("!") and pattern.startswith(path + "/")  # a folder on the way to what is wanted
            if hit or opens:
                wanted = rule.startswith("!")
        if not wanted:
            out.add(name)
    return out


def build(path: Path, options: argparse.Namespace) -> Stage:
    """Carry out every instruction; returns the last stage."""
    given = dict(pair.split("=", 1) for pair in options.build_arg)
    bases = dict(pair.split("=", 1) for pair in options.base)
    rules = Path(f"{path}.dockerignore")
    ignore = [line for line in rules.read_text().split("\n") if line and line[0] != "#"] if rules.exists() else []
    stages: dict[str, Stage] = {}
    outer: dict[str, str] = {}
    stage: Stage | None = None
    for keyword, rest in instructions(path.read_text()):
        print(f"{keyword} {rest}"[:150], flush=True)
        if keyword == "ARG":
            name, _, default = rest.partition("=")
            inherited = outer.get(name, "") if stage is not None and "=" not in rest else default
            (outer if stage is None else stage.arguments)[name] = given.get(name, inherited)
            continue
        if keyword == "FROM":
            image, _, name = expand(rest, outer).partition(" AS ")
            if image not in bases:
                sys.exit(f"error: no --base {image}=FOLDER was given")
            stage = stages[name or "last"] = Stage(options.work / (name or "last"))
            subprocess.run(["cp", "-a", "--reflink=auto", bases[image], stage.root], check=True)
            continue
        assert stage is not None
        values = {**stage.arguments, **stage.environment}
        if keyword == "RUN":
            step = Stage(stage.root, {**stage.environment, **stage.arguments}, folder=stage.folder, user=stage.user)
            step.environment |= {name: os.environ[name] for name in options.env if name in os.environ}
            subprocess.run(chroot(step, ["sh", "-c", rest], options.bind), check=True)
        elif keyword == "COPY":
            copy(stage, expand(rest, values), options.context, ignore, stages)
        elif keyword == "ENV":
            for name, value in re.findall(r"(\w+)=(\S+)", rest):
                stage.environment[name] = expand(value, values)
        elif keyword == "WORKDIR":
            stage.folder = expand(rest, values)
            (stage.root / stage.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif keyword == "USER":
            stage.user = rest if ":" in rest else f"{rest}:{rest}"
        elif keyword in ("ENTRYPOINT", "CMD"):
            setattr(stage, {"CMD": "command"}.get(keyword, "entrypoint"), json.loads(rest))
        elif keyword == "HEALTHCHECK":
            stage.health = json.loads(rest.partition("CMD ")[2])
        elif keyword == "VOLUME":
            stage.volumes = json.loads(rest)
        elif keyword != "EXPOSE":
            sys.exit(f"error: {keyword} is not understood")
    assert stage is not None
    return stage


def serve(stage: Stage, binds: list[str], patience: float) -> None:
    """Run the image as it would be run; raises SystemExit when it does not get healthy or does not end with 0."""
    process = subprocess.Popen(chroot(stage, stage.entrypoint + stage.command, binds, read_only=True))
    begin = time.monotonic()
    try:
        while True:
            health = subprocess.run(chroot(stage, stage.health, binds, read_only=True), capture_output=True, text=True)
            if health.returncode == 0:
                break
            if process.poll() is not None or time.monotonic() - begin > patience:
                sys.exit(f"error: not healthy after {time.monotonic() - begin:.0f} s: {health.stdout}{health.stderr}")
            time.sleep(2)
        print(f"healthy after {time.monotonic() - begin:.0f} s: {health.stdout.strip()}", flush=True)
        # What a container engine does: SIGTERM to the first process of the namespace, which is tini.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        code = process.wait(60)
    finally:
        process.kill()
    print(f"exit code after SIGTERM: {code}")
    if code:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--context", type=Path, default=Path("."), help="build context (the repository root)")
    parser.add_argument("--work", type=Path, required=True, help="empty folder that takes the stages' roots")
    parser.add_argument("--base", action="append", default=[], metavar="IMAGE=FOLDER")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--env", action="append", default=[], help="variable of this process that RUN steps get")
    parser.add_argument("--bind", action="append", default=[], help="folder of this machine that the steps see")
    parser.add_argument("--serve", action="store_true", help="run the image's command and its health check")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds until it must be healthy")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    options.work, options.context = options.work.resolve(), options.context.resolve()
    stage = build(options.dockerfile, options)
    if options.serve:
        serve(stage, options.bind, options.patience)


if __name__ == "__main__":
    main()
