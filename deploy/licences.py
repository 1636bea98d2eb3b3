"""Write docs/licences.md: every package that `make install` brings, with its version and licence. Run by `make licences`."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER = """# Licences of the dependencies

Monosem is under the MIT licence (LICENSE). It installs these packages, each under its own licence; none of their code is in this
repository. Made by `make licences` from what the packages say of themselves; `make sbom` writes the same as a CycloneDX bill of materials.
With a GPU build of torch, NVIDIA's CUDA packages (`deploy/locks/cuda.txt`) come in addition, under NVIDIA's licences.

`wandb` and its pre-release dependency `cwevals` are installed because `transformer-lens` requires them. Monosem imports `wandb` only where
`trainer.log_to` names it, and never `cwevals`; neither contacts anybody otherwise.

| package | version | licence |
|---|---|---|
"""


def locked() -> set[str]:
    """The names in the locks of an installation without tests."""
    texts = [(ROOT / "deploy/locks" / f"{name}.txt").read_text() for name in ("build", "torch-cpu", "runtime")]
    return {line.partition("==")[0] for text in texts for line in text.splitlines() if "==" in line}


def main() -> None:
    """Write the table."""
    command = [".venv-tools/bin/pip-licenses", "--python", ".venv/bin/python", "--format", "json", "--from", "mixed", "--with-system"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    wanted = locked()
    rows = {package["Name"].lower().replace("_", "-").replace(".", "-"): package for package in packages}
    lines = [f"| {name} | {rows[name]['Version'].partition('+')[0]} | {' '.join(rows[name]['License'].split())} |" for name in sorted(wanted)]
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs/licences.md").write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
