"""`python -m tests.benchmarks [NAME]`: one JSON line for each benchmark on stdout, the table of ratios and bars on stderr.

A benchmark is a file `bench_NAME.py` with a function `measure() -> Measurement`. Each runs in a process of its own, one after the other.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Measurement, Skipped, machine, versions

NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--inside"]:
        print(json.dumps(line_of(arguments[1])), flush=True)
        return 0
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    lines = []
    for name in arguments or NAMES:
        ended = subprocess.run([sys.executable, "-m", "tests.benchmarks", "--inside", name], stdout=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            print(f"benchmark {name} failed with exit code {ended.returncode}", file=sys.stderr)
            return 1
        lines.append(json.loads(ended.stdout.splitlines()[-1]))
        print(json.dumps(lines[-1], ensure_ascii=False), flush=True)
    print_table(lines)
    return 0


def line_of(name: str) -> dict[str, Any]:
    """What one benchmark prints."""
    line: dict[str, Any] = {"benchmark": name, "machine": machine(), "versions": versions()}
    try:
        found: Measurement = importlib.import_module(f"tests.benchmarks.bench_{name}").measure()
    except Skipped as reason:
        return line | {"skipped": str(reason)}
    bars = {key: {"bar": str(bar), "met": bar.met(found.ratios[key])} for key, bar in found.bars.items() if key in found.ratios}
    return line | {"value": found.value, "unit": found.unit, "ratios": found.ratios, "bars": bars, "details": found.details}


def print_table(lines: list[dict[str, Any]]) -> None:
    """The ratios beside their bars, for people."""
    for line in lines:
        if "skipped" in line:
            print(f"{line['benchmark']:24} skipped: {line['skipped']}", file=sys.stderr)
            continue
        print(f"{line['benchmark']:24} {line['value']:.4g} {line['unit']}", file=sys.stderr)
        for name, ratio in line["ratios"].items():
            bar = line["bars"].get(name)
            verdict = f"bar {bar['bar']}: {'met' if bar['met'] else 'MISSED'}" if bar else ""
            print(f"  {'against ' + name:32} {ratio:8.3f} ×   {verdict}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
