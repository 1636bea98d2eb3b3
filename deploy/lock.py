"""Write deploy/locks/: for everything that is installed, the pinned version and the SHA-256 of each file that may be installed for it.

Versions come from constraints.txt; uv resolves what each environment needs and reads the digests from the package index. torch is apart,
since its build depends on the machine: `torch-cpu.txt` locks the build that torch publishes for CPUs, `torch.txt` those of the package
index, and `cuda.txt` what the one for Linux needs there. Run by: make locks
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / "deploy" / "locks"
HEADER = "# {title}\n# Made by: make locks (do not edit). Install with: pip install --require-hashes --no-deps -r {name}.txt\n"
SOURCE_ONLY = ("transformers-stream-generator",)  # published without a wheel; built with the pinned setuptools


def compiled(sources: list[str], options: tuple[str, ...] = ()) -> str:
    """Requirements with hashes for `sources` (files that uv reads), at the versions of constraints.txt."""
    only_wheels = ["--only-binary", ":all:", *(part for name in SOURCE_ONLY for part in ("--no-binary", name))]
    layout = ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--python-version", "3.11"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *sources, *layout, *only_wheels, *options]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def names(requirements: str) -> set[str]:
    """The names that a lock pins."""
    return {line.partition("==")[0] for line in requirements.splitlines() if "==" in line}


def without(requirements: str, left_out: set[str]) -> str:
    """The lock less some packages."""
    kept, keep = [], True
    for line in requirements.splitlines(keepends=True):
        if "==" in line:
            keep = line.partition("==")[0] not in left_out
        kept.append(line if keep else "")
    return "".join(kept)


def cpu_build() -> str:
    """Give torch the digest of its CPU build, which the index does not list; this machine must be one that gets it."""
    with tempfile.TemporaryDirectory() as directory:
        pip = [str(ROOT / ".venv/bin/python"), "-m", "pip"]
        pin = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
        subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", directory, pin], check=True, capture_output=True)
        [wheel] = Path(directory).glob("torch-*+cpu-*.whl")
        printed = subprocess.run([*pip, "hash", str(wheel)], check=True, capture_output=True, text=True).stdout
    return f"{pin} \\\n    {printed.splitlines()[-1]}\n"


def write(name: str, title: str, requirements: str) -> None:
    """Write one lock."""
    (LOCKS / f"{name}.txt").write_text(HEADER.format(title=title, name=name) + requirements)


def main() -> None:
    """Write every lock."""
    LOCKS.mkdir(exist_ok=True)
    pinned = ("--constraint", "constraints.txt")
    with tempfile.TemporaryDirectory() as directory:
        only_torch = Path(directory, "torch.in")
        only_torch.write_text(next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")) + "\n")
        everywhere = compiled([str(only_torch)], (*pinned, "--python-platform", "windows"))
        with_cuda = compiled([str(only_torch)], (*pinned, "--python-platform", "x86_64-manylinux_2_28"))
    cuda = names(with_cuda) - names(everywhere)
    write("build", "What builds this package, and dependencies without a wheel.", without(everywhere, names(everywhere) - {"setuptools"}))
    write("torch-cpu", "torch for CPUs.", cpu_build())
    write("torch", "torch as the package index has it.", without(with_cuda, names(with_cuda) - {"torch"}))
    write("cuda", "What torch's CUDA build for Linux needs besides.", without(with_cuda, names(everywhere)))
    for name, title, extra in (
        ("runtime", "What every stage of Monosem needs.", ("--extra", "all")),
        ("test", "What Monosem and its tests need.", ("--extra", "test")),
    ):
        write(
            name, f"{title} build.txt and torch come first.", without(compiled(["pyproject.toml"], (*pinned, *extra)), cuda | {"torch", "setuptools"})
        )
    write("browser", "What the image of `monosem serve` needs.", compiled(["deploy/browser-requirements.txt"], pinned))
    for name, source in (("peers", "tests/benchmarks/peers.txt"), ("swift", "tests/servers/swift.txt"), ("triton", "tests/sae/kernels/triton.txt")):
        write(name, f"{source} with digests.", compiled([source], ("--no-deps",)))
    write("docs", "What builds the documentation as a site.", compiled(["deploy/docs.txt"]))
    write("tools", "What makes these files, the bill of materials and the list of licences.", compiled(["deploy/tools.txt"]))


if __name__ == "__main__":
    main()
