"""Triton kernels compiled for a GPU that need not be here, as the tools of the toolkit see them."""

import subprocess
import tempfile
from pathlib import Path

DOUBLE = ("geometry", "frames", "scale")


def dump(kernel, given: dict, capability: int, option: str, types: dict[str, str]) -> str:
    """What cuobjdump says of a kernel of drrlib.

    Args:
        given: Constants of the kernel, and options of the compiler.
        capability: Such as 75.
        option: Of cuobjdump, such as "-sass".
        types: Triton's types of tensors by name; others are float32, or float64 as `DOUBLE`.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from drrlib.projectors import triton_rays

    known = dict.fromkeys(DOUBLE, "*fp64") | dict.fromkeys(triton_rays.SIZES, "i32")
    known |= types | dict.fromkeys(given, "constexpr")
    signature = {name: known.get(name, "*fp32") for name in kernel.arg_names}
    values = {name: x for name, x in given.items() if name in kernel.arg_names}
    options = {name: x for name, x in given.items() if name not in kernel.arg_names}
    source = ASTSource(kernel, signature, values)
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        found = subprocess.run([tool, option, file.name], capture_output=True, text=True)
    return found.stdout + found.stderr
