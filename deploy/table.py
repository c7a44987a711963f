#!/usr/bin/env python3
"""The accuracy table: fit, evaluate, render.

One JSON a (set, seed, budget, source): what is there is not done again, so a run that was stopped goes on where
it was, fits included. "Source" is a SHA-256 over src/core, src/train (without their tests), Cargo.lock and what
is said of the part: figures of another version are never mixed in.

Each fit has one core of its own and --threads 1, so that several side by side cost each other little.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# All that a user says of the part; everything else is the trainer's business.
SAID = {
    "bottle": [],
    "casting": ["--symmetry", "rotate"],
    "magnetic_tile": ["--symmetry", "flip", "--normalise", "exposure"],
    "moulded_figure": [],
    "paper_bft": ["--symmetry", "rotate"],
    "paper_btn": ["--symmetry", "rotate"],
    "pcb": [],
}

# Heading, field of the evaluation's JSON, digits.
COLUMNS = [
    ("image AUROC", "auroc", 3),
    ("linear floor", "floor_auroc", 3),
    ("PatchCore", "patchcore_auroc", 3),
    ("pixel AUROC", "pixel_auroc", 3),
    ("PatchCore pixel", "patchcore_pixel_auroc", 3),
    ("AUPRO@0.30", "aupro_30", 3),
    ("recall", "recall", 2),
    ("false rejects", "false_reject_rate", 2),
]


def arguments():
    parser = argparse.ArgumentParser(
        prog="table.sh",
        description="Fits every set with several seeds, judges each model on its test split, prints a table.",
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data",
                        help="folder with the sets (default: ../shared/data beside the repository)")
    parser.add_argument("--out", type=Path, default=None,
                        help="folder for figures, logs and models (default: target/table)")
    parser.add_argument("--sets", default=",".join(SAID), help="comma-separated (default: all)")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (default: 0,1,2)")
    parser.add_argument("--minutes", type=float, default=10, help="budget of each fit (default: 10)")
    parser.add_argument("--steps", type=int, default=None,
                        help="steps of each fit instead of minutes: the same work on a busy machine")
    parser.add_argument("--jobs", type=int, default=2, help="fits side by side (default: 2)")
    parser.add_argument("--render", action="store_true", help="only print the table from what is there")
    parser.add_argument("--train", type=Path, default=ROOT / "target/release/inspect-train",
                        help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out or ROOT / "target" / "table"
    args.sets = [s for s in args.sets.split(",") if s]
    try:
        args.seeds = [int(s) for s in args.seeds.split(",") if s]
    except ValueError:
        parser.error(f"--seeds {args.seeds}: expected whole numbers such as 0,1,2")
    unknown = [s for s in args.sets if s not in SAID]
    if unknown or not args.sets or not args.seeds:
        parser.error(f"--sets {','.join(unknown) or '(none)'}: expected some of {','.join(SAID)}")
    if args.minutes <= 0 or args.jobs < 1 or (args.steps is not None and args.steps < 1):
        parser.error("--minutes, --steps and --jobs: expected more than 0")
    args.budget = ["--minutes", f"{args.minutes:g}"] if args.steps is None else ["--steps", str(args.steps)]
    args.budget_name = f"{args.budget[1]} {args.budget[0].lstrip('-')}"
    return args


def source_digest():
    """SHA-256 over names and contents of what a model depends on."""
    files = [ROOT / "Cargo.lock"]
    for folder in (ROOT / "src/core", ROOT / "src/train"):
        files += [p for p in folder.rglob("*") if p.is_file() and "tests" not in p.relative_to(folder).parts]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def name_of(args, digest, name, seed):
    digest = hashlib.sha256(" ".join([digest, *SAID[name]]).encode()).hexdigest()
    return f"{name}-seed{seed}-{args.budget_name.replace(' ', '')}-{digest[:12]}"


def patchcore(data):
    """Set -> (image AUROC, pixel AUROC or None), from the peers' table in the data folder's README."""
    found, columns = {}, None
    readme = data / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    for line in lines:
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            columns = None
        elif "PatchCore" in cells:
            columns = cells
        elif columns and len(cells) == len(columns):
            try:
                figures = [float(f) for f in cells[columns.index("PatchCore")].split("/")]
            except ValueError:
                continue
            found[cells[0]] = (figures[0], figures[1] if len(figures) > 1 else None)
    return found


class Run:
    """The fits that are still to be done."""

    def __init__(self, args, digest):
        self.args, self.digest = args, digest
        self.cores = queue.Queue()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
        for job in range(args.jobs):
            self.cores.put(cores[job % len(cores)])
        self.children, self.lock, self.stopped = set(), threading.Lock(), False
        self.done, self.failed = 0, []

    def call(self, command, core, log):
        """Runs one program on one core, its words into the log. Raises where it fails."""
        if core is not None and shutil.which("taskset"):
            command = ["taskset", "-c", str(core), *command]
        with self.lock:
            if self.stopped:
                raise KeyboardInterrupt
            child = subprocess.Popen(command, stdout=log, stderr=log)
            self.children.add(child)
        code = child.wait()
        with self.lock:
            self.children.discard(child)
        if code != 0:
            raise RuntimeError(f"`{' '.join(map(str, command))}` ended with {code}")

    def one(self, name, seed):
        args = self.args
        stem = args.out / name_of(args, self.digest, name, seed)
        model, figures, log_path = (stem.with_name(stem.name + e) for e in (".onnx", ".eval", ".log"))
        checkpoint = model.with_name(model.name + ".checkpoint")
        core = self.cores.get()
        start, resumed = time.monotonic(), checkpoint.exists()
        try:
            with open(log_path, "w", encoding="utf-8") as log:
                fit = [args.train, "fit", "--data", args.data / name, "--out", model, "--seed", str(seed),
                       "--threads", "1", "--resume", *args.budget, *SAID[name]]
                self.call(fit, core, log)
                fit_s = time.monotonic() - start
                if checkpoint.exists():
                    raise RuntimeError("the fit was stopped before its last step; start again to go on")
                self.call([args.train, "evaluate", "--model", model, "--data", args.data / name, "--floor",
                           "--json", figures], core, log)
            record = {
                "set": name, "seed": seed, "budget": args.budget_name, "source_sha256": self.digest,
                "said": SAID[name], "fit_s": round(fit_s, 1), "resumed": resumed,
                "model_bytes": model.stat().st_size,
                "evaluation": json.loads(figures.read_text(encoding="utf-8")),
            }
            write_whole(stem.with_name(stem.name + ".json"), json.dumps(record, indent=2) + "\n")
            figures.unlink()
            return record
        finally:
            self.cores.put(core)

    def all(self, todo):
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            waiting = {pool.submit(self.one, *job): job for job in todo}
            try:
                for future in concurrent.futures.as_completed(waiting):
                    self.tell(waiting[future], future, len(todo), time.monotonic() - start)
            except KeyboardInterrupt:
                self.stop(waiting)
                raise

    def tell(self, job, future, total, elapsed):
        self.done += 1
        left = elapsed / self.done * (total - self.done) / 60
        error = future.exception()
        if error:
            self.failed.append(job)
            log = name_of(self.args, self.digest, *job) + ".log"
            what = f"failed: {error}; see {self.args.out / log}"
        else:
            what = f"image AUROC {figure(future.result()['evaluation'], 'auroc', 3)}"
        print(f"[{self.done}/{total}] {job[0]} seed {job[1]}: {what} ({left:.0f} min left)",
              file=sys.stderr, flush=True)

    def stop(self, waiting):
        for future in waiting:
            future.cancel()
        with self.lock:
            self.stopped = True
            for child in self.children:
                child.terminate()
        print("stopped; start again to go on", file=sys.stderr)


def write_whole(path, text):
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def collect(args, digest):
    """Set -> records by seed, of this source and budget, with the peer's figures."""
    peers, found = patchcore(args.data), {}
    for name in args.sets:
        for seed in args.seeds:
            path = args.out / (name_of(args, digest, name, seed) + ".json")
            if path.is_file():
                record = json.loads(path.read_text(encoding="utf-8"))
                image, pixel = peers.get(name, (None, None))
                record["evaluation"].update(patchcore_auroc=image, patchcore_pixel_auroc=pixel)
                found.setdefault(name, []).append(record)
    return found


def number(evaluation, field):
    value = evaluation.get(field)
    if field == "recall" and value is None and evaluation.get("escape_rate") is not None:
        value = 1 - evaluation["escape_rate"]
    return value if isinstance(value, (int, float)) else None


def figure(evaluation, field, digits):
    value = number(evaluation, field)
    return "–" if value is None else f"{value:.{digits}f}"


def spread(records, field, digits):
    """Mean over seeds, with minimum and maximum where they differ."""
    values = [v for v in (number(r["evaluation"], field) for r in records) if v is not None]
    if not values:
        return "–"
    mean, low, high = sum(values) / len(values), min(values), max(values)
    text = f"{mean:.{digits}f}"
    ends = f"{low:.{digits}f}", f"{high:.{digits}f}"
    return text if ends[0] == ends[1] else f"{text} ({ends[0]}–{ends[1]})"


def interval(records):
    """The lowest and highest end, over the seeds, of the 95 % interval of false rejects by group."""
    shares = [r["evaluation"].get("intervals", {}).get("false_reject_rate", {}).get("bootstrap") for r in records]
    ends = [(s["low"], s["high"]) for s in shares if s]
    return f", by group {min(e[0] for e in ends):.2f}–{max(e[1] for e in ends):.2f}" if ends else ""


def mean_of_sets(found, field, digits):
    means = []
    for records in found.values():
        values = [v for v in (number(r["evaluation"], field) for r in records) if v is not None]
        if values:
            means.append(sum(values) / len(values))
    if not means:
        return "–"
    some = "" if len(means) == len(found) else f" ({len(means)} sets)"
    return f"{sum(means) / len(means):.{digits}f}{some}"


def render(args, digest, found):
    lines = [
        "| set | test good / defective | " + " | ".join(c[0] for c in COLUMNS) + " | threshold |",
        "| --- | --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    for name, records in found.items():
        first = records[0]["evaluation"]
        cells = [spread(records, field, digits) for _, field, digits in COLUMNS]
        cells[-1] += interval(records)
        provisional = sum(bool(r["evaluation"].get("provisional")) for r in records)
        kind = "provisional" if provisional == len(records) else "mixed" if provisional else "proven"
        lines.append(f"| {name} | {first.get('good', '–')} / {first.get('defective', '–')} | "
                     + " | ".join(cells) + f" | {kind} |")
    means = [mean_of_sets(found, field, digits) for _, field, digits in COLUMNS]
    lines.append("| mean | | " + " | ".join(means) + " | |")
    count = sum(len(r) for r in found.values())
    wanted = len(args.sets) * len(args.seeds)
    lines += ["", f"Mean over seeds {', '.join(map(str, args.seeds))} (minimum–maximum); each fit {args.budget_name} "
              f"on one core; source {digest[:12]}; {count} of {wanted} fits. Recall and false rejects at "
              "the card's threshold. PatchCore: the data folder's README (pretrained ResNet-18)."]
    return "\n".join(lines)


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    args = arguments()
    # Else the fits would go on by themselves, and beside those of the next start.
    signal.signal(signal.SIGTERM, interrupted)
    digest = source_digest()
    failed = []
    if not args.render:
        if not args.data.is_dir():
            sys.exit(f"table.sh: {args.data} is not a folder; --data takes the folder that holds bottle, casting, ...")
        missing = [s for s in args.sets if not (args.data / s).is_dir()]
        if missing:
            sys.exit(f"table.sh: {args.data} has no {', '.join(missing)}; name others with --sets")
        if not args.train.is_file():
            sys.exit(f"table.sh: {args.train} is not there; run deploy/table.sh, which builds it")
        args.out.mkdir(parents=True, exist_ok=True)
        # Seed by seed, so that a run that is stopped early has a figure for each set.
        jobs = [(name, seed) for seed in args.seeds for name in args.sets]
        todo = [j for j in jobs if not (args.out / (name_of(args, digest, *j) + ".json")).is_file()]
        print(f"{len(jobs) - len(todo)} of {len(jobs)} fits are there; {len(todo)} to do", file=sys.stderr)
        run = Run(args, digest)
        try:
            run.all(todo)
        except KeyboardInterrupt:
            sys.exit(130)
        failed = run.failed
    found = collect(args, digest)
    if not found:
        sys.exit(f"table.sh: {args.out} holds no figures of this source ({digest[:12]}) at {args.budget_name}")
    print(render(args, digest, found))
    raw = args.out / f"table-{args.budget_name.replace(' ', '')}-{digest[:12]}.json"
    write_whole(raw, json.dumps({"source_sha256": digest, "budget": args.budget_name, "sets": found}, indent=2) + "\n")
    print(f"{raw}: raw figures", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
