"""The one SGLang version whose internals the seams were written against."""

from importlib import metadata

SUPPORTED = "0.5.17"


def installed() -> str:
    """The installed SGLang's version, or "none"."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return "none"


def both() -> str:
    """The two versions, as every seam error names them."""
    return f"SGLang {installed()} found, {SUPPORTED} supported"
