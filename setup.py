"""Compiles every .pyx; all other metadata is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
PACKAGES_WITH_CYTHON = ("cython_ring", "mmio", "hwloop")
# What the environment says comes first on the command line, so ours would win: builds with a sanitizer choose theirs.
OPTIMISE = [] if "-O" in os.environ.get("CFLAGS", "") else ["-O2"]
# Cython makes converters of structs that a cimported module might want, and says nothing of those that none does.
QUIET = ["-Wno-unused-function"]


def extensions() -> list[Extension]:
    """One extension a .pyx, named by its path."""
    sources = sorted(path for package in PACKAGES_WITH_CYTHON for path in (ROOT / package).rglob("*.pyx"))
    return [
        Extension(
            ".".join(path.relative_to(ROOT).with_suffix("").parts),
            [str(path.relative_to(ROOT))],
            extra_compile_args=[*OPTIMISE, "-Wall", "-Wextra", "-Wno-unused-parameter", *QUIET],
        )
        for path in sources
    ]


setup(ext_modules=cythonize(extensions(), language_level=3))
