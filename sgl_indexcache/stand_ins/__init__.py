"""Stand-ins for two packages that SGLang imports and that have no build without CUDA.

`torchvision` is imported by every SGLang process and `sgl_kernel` by those that run on the CPU; a text model
calls nothing of either. The modules of this folder hold the names that are read while SGLang and transformers
are imported; calling one raises a RuntimeError that names the package to install.

`install` appends one finder to `sys.meta_path`, so a real package always wins. SGLang spawns processes that
import it before any plugin is loaded; the CPU installer therefore writes `PTH_LINE` into the environment, and
this file imports nothing but `sys`.

transformers asks `find_spec("torchvision")` and then takes its torchvision path for images. Such a question
cannot be told from an import, and its answer must not depend on which came first; so it is "present", the
names of that path exist, and their use is refused by name.
"""

import sys

# Top-level module -> what to install instead of its stand-in.
PACKAGES = {
    "torchvision": "torchvision (the build that belongs to the installed torch)",
    "sgl_kernel": "sglang-kernel (CUDA), or SGLang's own CPU build of sgl_kernel",
}

PTH_NAME = "sgl_indexcache_stand_ins.pth"  # sorts after __editable__*.pth, which makes this package importable
# A .pth file runs single lines that begin with `import`. Nothing in it may break the start of a Python.
PTH_LINE = (
    r'import sys; exec("try:\n from sgl_indexcache.stand_ins import install\n install()\n'
    r'except Exception:\n pass")' + "\n"
)


class StandInFinder:
    """Finds the stand-ins by their top-level names; their submodules follow from `__path__`."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        """Return the stand-in's spec, or None. The types are left out: importing them costs start-up time."""
        if fullname not in PACKAGES:
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(fullname, __path__)


def install() -> None:
    """Append the finder to `sys.meta_path`, once a process."""
    if StandInFinder not in sys.meta_path:
        sys.meta_path.append(StandInFinder)
