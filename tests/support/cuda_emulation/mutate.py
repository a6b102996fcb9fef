"""How strong is the emulation? Deletes each barrier and each bound check of the kernels in turn and reruns the cases.

`python -m tests.support.cuda_emulation.mutate sliced_ot` prints a table and writes MUTATIONS_<op>.md beside this file;
mutants_<op>.json there names mistakes of the arithmetic to try too.
A mutant is killed when a case fails, the machine or a sanitizer complains, the build breaks, or the run takes far too
long. Mutants that survive the plain build run again under the sanitizers, where reads out of bounds show. Survivors
need a reason in equivalent_<op>.json; one without makes the command exit 1.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import FOLDER, ROOT, build, sanitizer_environment

COMPARISON = re.compile(r" (<=|>=|<|>) ")
STOPS = ("&&", "||", "? ", " : ", "; ", " = ", "return ", ", ", "{")
TIMEOUT = 300


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    kind: str
    before: str
    after: str

    @property
    def key(self) -> str:
        """What the mutation does, without the line number, which other changes move."""
        return f"{self.before.strip()} -> {self.after.strip()}"


def operand(code: str, position: int, step: int) -> int:
    """Where the operand that ends (step -1) or begins (step 1) at `position` begins or ends."""
    opening, closing = ("([", ")]") if step > 0 else (")]", "([")
    depth = 0
    while 0 <= position < len(code):
        character = code[position]
        if depth == 0 and any(code.startswith(stop, position - (len(stop) - 1 if step < 0 else 0)) for stop in STOPS):
            break
        if depth == 0 and (character in closing or character in "?;"):
            break
        depth += (character in opening) - (character in closing)
        position += step
    return position


def mutations_of_line(line: str) -> list[tuple[str, str]]:
    """The mutants of one line: what kind, and the new line."""
    code = line.split("//")[0]
    found = []
    if "__syncthreads();" in code or re.search(r"__syncwarp\([^)]*\);", code):
        found.append(("barrier", re.sub(r"__sync(threads|warp)\([^)]*\);", ";", code)))
    if "__syncthreads_or(" in code:
        found.append(("barrier", code.replace("__syncthreads_or(", "static_cast<int>(")))
    if "static_assert" in code or "constexpr" in code:
        return found
    for match in COMPARISON.finditer(code):
        begin, end = operand(code, match.start() - 1, -1) + 1, operand(code, match.end(), 1)
        left, right = code[begin : match.start()].strip(), code[match.end() : end].strip()
        head, tail = code[:begin], code[end:].rstrip()
        if tail[:1] in "&|?":
            tail = f" {tail}"
        if not head.endswith(("(", " ")):
            head += " "
        loop = "for (" in head or "while (" in head
        if loop and match.group(1)[0] == "<" and re.fullmatch(r"[A-Z]+|k[A-Z]\w*(<\w+>)?|items|\d+", right):
            continue  # a loop over a constant number of items checks no bound
        if loop and "&&" not in head.split(";")[-1] + tail.split(";")[0]:
            shift = "- 1" if match.group(1) in ("<", "<=") else "+ 1"
            found.append(("loop one too far", f"{head}{left} {shift} {match.group(1)} {right}{tail}"))
        elif re.match(r"\)+ (break|return|continue)", tail):
            found.append(("check", f"{head}false{tail}"))
        else:
            found.append(("check", f"{head}true{tail}"))
            if "?" in tail or head.endswith("= "):
                found.append(("check", f"{head}false{tail}"))
    return found


def mutants(op: str, part: str, csrc: Path) -> list[Mutant]:
    found = []
    for path in sorted((csrc / op).glob(f"{part}_cuda*" if part else "cuda*")):
        if "__device__" not in path.read_text():
            continue  # the host side
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip().startswith("//"):
                continue
            found += [Mutant(path.name, number, kind, line, after) for kind, after in mutations_of_line(line)]
    return [*found, *written_by_hand(op, part, csrc)]


def written_by_hand(op: str, part: str, csrc: Path) -> list[Mutant]:
    """Those of mutants_<name>.json: for each file, what stands in exactly one line, and what shall stand there."""
    path = FOLDER / f"mutants_{name_of(op, part)}.json"
    found = []
    for file, changes in json.loads(path.read_text()).items() if path.exists() else ():
        lines = (csrc / op / file).read_text().splitlines()
        for before, after in changes:
            (number,) = (number for number, line in enumerate(lines, 1) if before in line)
            line = lines[number - 1]
            found.append(Mutant(file, number, "arithmetic", line, line.replace(before, after)))
    return found


def survives(library: Path, name: str, seeds: list[int], environment: dict[str, str] | None) -> str | None:
    """None when the library passes all cases, else what happened."""
    command = [sys.executable, "-m", f"tests.support.cuda_emulation.{name}", str(library), *map(str, seeds)]
    environment = {**(environment or os.environ), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return "hangs"
    if result.returncode == 0:
        return None
    sanitizer = re.search(r"(AddressSanitizer: \S+|runtime error: .{0,60})", result.stderr)
    reason = sanitizer.group(1) if sanitizer else (result.stderr.strip().splitlines() or ["crash"])[-1]
    return f"{reason} ({(result.stdout.strip().splitlines() or ['no case'])[-1]})"


def name_of(op: str, part: str) -> str:
    return f"{op}_{part}" if part else op


def judge(op: str, part: str, mutant: Mutant, original: Path) -> str | None:
    """What killed the mutant; None when it lives."""
    with tempfile.TemporaryDirectory() as folder:
        csrc = Path(folder) / "csrc"
        shutil.copytree(original, csrc)
        path = csrc / op / mutant.file
        lines = path.read_text().splitlines()
        lines[mutant.line - 1] = mutant.after
        path.write_text("\n".join(lines) + "\n")
        for sanitize, seeds in ((False, [0, 1, 2]), (True, [3])):
            environment = sanitizer_environment() if sanitize else None
            if sanitize and environment is None:
                continue
            try:
                library = build(op, part=part, sanitize=sanitize, csrc=csrc)
            except RuntimeError:
                return "does not compile"
            verdict = survives(library, name_of(op, part), seeds, environment)
            library.unlink()
            if verdict is not None:
                return verdict
    return None


def report(op: str, part: str, verdicts: dict[Mutant, str | None], reasons: dict[str, str], minutes: float) -> str:
    kinds = sorted({mutant.kind for mutant in verdicts})
    lines = [
        f"# Mutations of csrc/{op}{f', {part}' if part else ''}",
        "",
        f"Written by `python -m tests.support.cuda_emulation.mutate {op}{f' --part {part}' if part else ''}` in "
        f"{minutes:.0f} minutes.",
        "",
        "| mutation | mutants | killed | kill rate |",
        "|---|---|---|---|",
    ]
    for kind in [*kinds, "all"]:
        chosen = [verdict for mutant, verdict in verdicts.items() if kind in ("all", mutant.kind)]
        killed = sum(verdict is not None for verdict in chosen)
        lines.append(f"| {kind} | {len(chosen)} | {killed} | {killed / len(chosen):.0%} |")
    survivors = [mutant for mutant, verdict in verdicts.items() if verdict is None]
    lines += ["", "Survivors, and why no run can tell them from the original:" if survivors else "No mutant survived."]
    for mutant in survivors:
        lines += ["", f"- `{mutant.file}`: `{mutant.before.strip()}` → `{mutant.after.strip()}`"]
        lines += [f"  {reasons.get(mutant.key, 'UNEXPLAINED')}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("op")
    parser.add_argument("--part", default="", help="of the operation: mutates <part>_cuda*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mutate only lines that contain this text; writes no file")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "csrc"
        shutil.copytree(ROOT / "csrc", original)
        chosen = [mutant for mutant in mutants(options.op, options.part, original) if options.only in mutant.before]
        if options.list:
            print(*(f"{m.file}:{m.line} [{m.kind}] {m.key}" for m in chosen), sep="\n")
            return 0
        return judge_all(options, chosen, original)


def judge_all(options: argparse.Namespace, chosen: list[Mutant], original: Path) -> int:
    start = time.time()
    name = name_of(options.op, options.part)
    if (verdict := survives(build(options.op, part=options.part), name, [0, 1, 2], None)) is not None:
        print(f"the original itself fails: {verdict}")
        return 2
    verdicts: dict[Mutant, str | None] = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {pool.submit(judge, options.op, options.part, mutant, original): mutant for mutant in chosen}
        for job in concurrent.futures.as_completed(jobs):
            mutant, verdict = jobs[job], job.result()
            verdicts[mutant] = verdict
            state = "SURVIVES" if verdict is None else f"killed: {verdict[:110]}"
            print(
                f"[{len(verdicts)}/{len(chosen)}] {mutant.file}:{mutant.line} {mutant.key[:150]}\n    {state}",
                flush=True,
            )
    verdicts = {mutant: verdicts[mutant] for mutant in chosen}
    path = FOLDER / f"equivalent_{name}.json"
    reasons = json.loads(path.read_text()) if path.exists() else {}
    text = report(options.op, options.part, verdicts, reasons, (time.time() - start) / 60)
    print(text)
    if not options.only:
        (FOLDER / f"MUTATIONS_{name}.md").write_text(text)
    return int("UNEXPLAINED" in text)


if __name__ == "__main__":
    sys.exit(main())
