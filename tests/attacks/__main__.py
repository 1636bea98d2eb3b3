"""All attacks, or a sample: `python -m tests.attacks [--sample N] [--seed N] [--most N] [--only COMMAND] [--lines FILE]`.

Prints a table of commands and outcomes, and every attack whose outcome is bad; ends with exit code 1 where there is one.
"""

import argparse
import datetime
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from tests.attacks.campaign import Attack, Campaign, all_attacks, prepared
from tests.attacks.outcomes import counted


def main() -> int:
    """Attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="attacks, drawn evenly from all commands; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=4, help="altered values or numbers of each file")
    parser.add_argument("--only", help="the attacks of this command")
    parser.add_argument("--lines", type=Path, help="write a JSON line for each attack there")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        campaign = Campaign(prepared(Path(root)), Path(root))
        attacks = [each for each in all_attacks(campaign.states, options.seed, options.most) if options.only in (None, each.reader.name)]
        chosen = attacks if options.sample is None else sample(attacks, options.sample, options.seed)
        outcomes = []
        with open(options.lines or "/dev/null", "w") as lines:
            for outcome in campaign.outcomes(chosen, options.processes):
                outcomes.append(outcome)
                lines.write(json.dumps(asdict(outcome)) + "\n")
                lines.flush()
                if not outcome.good:
                    resealed = ", digests made to agree" if outcome.resealed else ""
                    print(f"BAD {outcome.command}: {outcome.file}, {outcome.kind}{resealed}: {outcome.what}. {outcome.message}", flush=True)
    print(f"{len(outcomes)} of {len(attacks)} attacks, {datetime.date.today()}, seed {options.seed}", *counted(outcomes), sep="\n")
    return int(not all(outcome.good for outcome in outcomes))


def sample(attacks: list[Attack], count: int, seed: int) -> list[Attack]:
    """Attacks of all readers in turn, so that each has its share; drawn with a seed."""
    draw = random.Random(seed)
    of_readers: dict[int, list[Attack]] = {}
    for attack in attacks:
        of_readers.setdefault(id(attack.reader), []).append(attack)
    for each in of_readers.values():
        draw.shuffle(each)
    chosen: list[Attack] = []
    while len(chosen) < min(count, len(attacks)):
        chosen += [each.pop() for each in of_readers.values() if each]
    return sorted(chosen[:count], key=lambda attack: attack.reader.name)


if __name__ == "__main__":
    sys.exit(main())
