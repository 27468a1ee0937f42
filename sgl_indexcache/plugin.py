"""The entry point of group `sglang.srt.plugins`. Wires; decides nothing.

SGLang calls `activate` in the main process and in every scheduler, and swallows what it raises; what must
stop a server therefore leaves as SystemExit, and every seam is verified again where it is needed.
"""

import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgl_indexcache.settings import Settings

logger = logging.getLogger(__name__)

_active = False


def activate() -> None:
    """Read the settings and install the seams. Idempotent and cheap; touches no CUDA."""
    global _active
    if _active:
        return
    from sgl_indexcache import settings
    from sgl_indexcache.errors import UserError

    try:
        _activate(settings.load(), requested=settings.requested(os.environ))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    _active = True


def _activate(settings: "Settings", *, requested: bool) -> None:
    if not settings.enabled:
        logger.info("sgl_indexcache is switched off (enabled: false)")
        return
    from sgl_indexcache.sglang_port import proof, registry, runtime, version
    from sgl_indexcache.sglang_port.base import SeamError

    if version.installed() != version.SUPPORTED:
        sentence = (
            f"seam attention-backend cannot be installed: {version.both()}; "
            f"install sglang=={version.SUPPORTED} or start with SGL_INDEXCACHE_ENABLED=false"
        )
        if requested:
            raise SeamError(sentence)
        logger.warning(sentence)
        return
    runtime.current.settings = settings
    runtime.current.requested = requested
    registry.install(proof.device_of_process())
