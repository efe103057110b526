"""Builds the native kernels where a C++ compiler is; without one the package installs without them
and says so at start.
"""

from pathlib import Path

from setuptools import Extension, setup

_FOLDER = Path("native")
_QUIET = ("-Wno-maybe-uninitialized", "-Wno-uninitialized")  # GCC 12 warns of its own intrinsics

setup(
    ext_modules=[
        Extension(
            "tgi_cpu._native",
            sources=sorted(map(str, _FOLDER.glob("*.cpp"))),
            depends=sorted(map(str, _FOLDER.glob("*.h"))),
            language="c++",
            # The instruction set is chosen in the sources, per file, and at run time: never by the
            # machine that builds.
            extra_compile_args=[
                "-std=c++20",
                "-O3",
                "-fno-math-errno",
                "-pthread",
                "-Wno-maybe-uninitialized",
                "-Wno-uninitialized",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
