"""The package map; everything else about the project stands in pyproject.toml.

`kernels` and `loadtest` are no packages at the repository root, where their names would shadow others'
(SGLang imports Hugging Face's `kernels`). Their `src` folders, and the kernels' benchmarks, become subpackages of
sgl_indexcache, found without a list. The links in sgl_indexcache/ show the same places to mypy and editors; nothing
here needs them.
"""

from setuptools import find_packages, setup

MAPPED = {
    "sgl_indexcache.kernels": "kernels/src",
    "sgl_indexcache.kernels.benchmarks": "kernels/benchmarks",
    "sgl_indexcache.loadtest": "loadtest/src",
}

# How the small model was made and is studied: for the repository. An editable install finds them there all the same.
LEFT_OUT = [f"sgl_indexcache.nano.{part}" for part in ("training", "studies", "cards")]

# A set, since find_packages follows the links.
packages = set(
    find_packages(
        include=["sgl_indexcache", "sgl_indexcache.*"], exclude=[*LEFT_OUT, *(f"{part}.*" for part in LEFT_OUT)]
    )
)
for package, folder in MAPPED.items():
    packages |= {package, *(f"{package}.{name}" for name in find_packages(folder))}

setup(packages=sorted(packages), package_dir=MAPPED)
