"""Builds the native kernels if a C++ compiler is available.

Without a compiler the package is installed without native kernels, and the worker logs a message at
startup.
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
            # Each source file chooses its own instruction set, and the right code is selected at
            # run time. The build machine's processor must not influence the result.
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
