"""The part of the build that pyproject.toml cannot say: the graph kernel, marked with the digest of
its sources, by which `atgnn.graph.kernels.cpu` knows a library that is older than they are.

Optional: without a C++ compiler the package installs all the same, plain PyTorch serves, and
``atgnn doctor --build`` builds the kernel later.
"""

from runpy import run_path

from setuptools import Extension, setup

FOLDER = "src/atgnn/graph/kernels"
source = run_path(f"{FOLDER}/source.py")

setup(
    ext_modules=[
        Extension(
            "atgnn.graph.kernels._cpu",
            [f"{FOLDER}/cpu.cpp"],
            depends=[f"{FOLDER}/{path.name}" for path in (*source["SOURCES"], source["FILE"])],
            extra_compile_args=source["compile_flags"](),
            language="c++",
            optional=True,
        )
    ]
)
