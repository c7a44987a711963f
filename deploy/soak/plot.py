"""The soak's picture: memory, handles and threads, latency and disk over the parts, and when there was a fault.

Usage: plot.py DIR reads samples.csv, intervals.csv and faults.csv there and writes soak.png beside them.

Never here: a judgement (growth.py).
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402, the backend is chosen before

WARM_UP = 0.25
KINDS = ("disk_full_and_broker_silent", "configuration_changed", "model_changed", "broker_silent")
COLOURS = ("tab:red", "tab:purple", "tab:olive", "tab:brown")


def columns(path):
    """The file's columns by name; numbers where they are, NaN where nothing is."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def number(text):
        try:
            return float(text)
        except ValueError:
            return float("nan") if not text else text

    return {name: [number(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def main(folder):
    samples, intervals = columns(folder / "samples.csv"), columns(folder / "intervals.csv")
    faults = columns(folder / "faults.csv")
    thousands = [parts / 1e3 for parts in samples["parts"]]
    figure, panels = plt.subplots(4, 1, figsize=(10, 10), sharex=True, layout="constrained")
    memory, handles, latency, disk = panels
    for panel, name, label in (
        (memory, "rss_mb", "resident"), (memory, "anonymous_mb", "anonymous"), (handles, "handles", "open handles"),
        (handles, "threads", "threads"), (disk, "journal_mb", "journal"), (disk, "archive_mb", "archive"), (disk, "run_mb", "run_dir"),
    ):
        panel.plot(thousands, samples[name], label=label, linewidth=0.9)
    if intervals:
        for name, label in (("p50_us", "p50"), ("p99_us", "p99"), ("machine_p99_us", "p99 of a bare wake-up")):
            latency.plot([p / 1e3 for p in intervals["parts"]], [us / 1e3 for us in intervals[name]], label=label, linewidth=0.9)
    titles = ("memory, MB", "handles, threads", "trigger to result, ms", "disk, MB")
    for panel, title in zip(panels, titles):
        panel.set_ylabel(title)
        panel.set_ylim(0, 1.25 * panel.get_ylim()[1])
        panel.axvspan(0, WARM_UP * thousands[-1], color="0.93")
        for parts, fault in zip(faults.get("parts", ()), faults.get("fault", ())):
            colour = COLOURS[KINDS.index(fault)] if fault in KINDS else "0.75"
            panel.axvline(parts / 1e3, color=colour, linewidth=0.5, alpha=0.35, zorder=0)
        panel.legend(loc="upper right", fontsize=8)
    for kind, colour in zip(KINDS, COLOURS):
        panels[0].plot([], [], color=colour, linewidth=1, label=kind.replace("_", " "))
    panels[0].plot([], [], color="0.75", linewidth=1, label="other faults")
    panels[0].legend(loc="lower right", fontsize=8, ncols=4)
    panels[0].set_title(f"{int(samples['parts'][-1]):,} parts, {len(faults.get('fault', ()))} faults; grey: warm-up")
    panels[-1].set_xlabel("parts, thousands")
    figure.savefig(folder / "soak.png", dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
