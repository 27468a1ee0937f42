"""All seams, and their installation in a process."""

from sgl_indexcache.sglang_port import proof, version
from sgl_indexcache.sglang_port.base import Device, Seam
from sgl_indexcache.sglang_port.seams import common, cpu, cuda

SEAMS: tuple[Seam, ...] = (*common.SEAMS, *cpu.SEAMS, *cuda.SEAMS)


def seams_for(device: Device) -> list[Seam]:
    """The seams that `device` needs, in the order of installation."""
    return [seam for seam in SEAMS if device in seam.devices]


def install(device: Device) -> None:
    """Install the seams of a device. An exception in one is kept for the self-check, which then names it."""
    for seam in seams_for(device):
        proof.installed[seam.name] = seam
        try:
            seam.install()
        except Exception as error:  # SGLang's internals may fail in any way; the self-check reports it
            proof.failures[seam.name] = f"could not be installed ({type(error).__name__}: {error})"


def diagnose() -> list[proof.SeamReport]:
    """The state of every seam that this process's device needs, once SGLang has loaded its plugins as a server does."""
    if version.installed() == version.SUPPORTED:
        from sglang.srt.plugins import load_plugins

        load_plugins()
    return proof.report(seams_for(proof.device_of_process()))
