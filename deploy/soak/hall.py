"""What a soak runs: the real inspectd and a Mosquitto, with the folders that they write to.

Terms. The *disk* is the folder of journal and archive: a small file system of its own where that can be had. The
*demo model* is the one that people fit; the *light* one costs tens of microseconds a part (see model.py). The
configuration has two *variants* with as many threads and handles, so that a change of it can be told from growth.

Never here: what is done to them (faults.py), what is made of it (ledger.py, growth.py).
"""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import model
from line import ROOT, TOPIC, Broker, Process, free_port, simulated, station, until

START_S = 60
STATUS_S = 5
COMMAND_S = 180
PERIOD_MS = 20  # of a clock: as short as its deadline may be
JOURNAL_MAX_MB = 30  # at its bound after some 30,000 parts
ARCHIVE_MAX_GB = 0.012
KEEP_ALIVE_S = 5
PICTURES = 40
REVIEW, REJECT = 0.700, 0.703  # of the light model: some 6 % and 3 % of parts are above
DEMO_STATIONS, LIGHT_STATIONS = 2, 10
# Each n-th frame of a simulated camera is lost: primes, so that cameras do not lose theirs together.
LOSE_EVERY = (211, 499, 751, 997, 1009, 1493, 1999, 2503, 2999, 3499, 3989, 4493)
PLC_STATIONS = ("plc-acknowledged", "plc-plain")


# What the service runs with: the allocator's arenas among it, without which memory takes hours to come to rest.
UNIT_ENVIRONMENT = dict(re.findall(r"(?m)^Environment=(\w+)=(\S*)$", (ROOT / "systemd" / "inspectd.service").read_text()))


def clock(period_ms):
    return f'{{ source = "clock", period_ms = {period_ms} }}'


class Hall:
    """All processes and folders of one soak."""

    def __init__(self, inspectd, demo_model, work, seed):
        self.inspectd, self.work, self.seed = inspectd, work, seed
        self.disk, self.run = work / "disk", work / "run"
        self.journal = self.disk / "journal"
        for folder in (self.disk, self.run):
            folder.mkdir(exist_ok=True)
        self.models = {"demo": work / "demo.onnx", "light": work / "light.onnx"}
        self.models["demo"].write_bytes(demo_model.read_bytes())
        self.models["light"].write_bytes(model.model("soak light", REVIEW, REJECT))
        self.pictures = work / "pictures"
        self.config = work / "inspectd.toml"
        self.port = free_port()
        self.broker = Broker(work)
        self.daemon = None
        self.variant = 0

    # ------------------------------------------------------------------ configuration

    def stations(self):
        demo, light = self.models["demo"].name, self.models["light"].name
        lose = iter(LOSE_EVERY)

        def seen(side):
            each = next(lose)
            return simulated(width=side, height=side, seed=self.seed + each, defect_rate=0.1, lose_every=each)

        acknowledged = 'results = { mode = "acknowledged", depth = 4 }'
        plc = [
            station(PLC_STATIONS[0], camera=simulated(width=128, height=128, seed=self.seed), deadline_ms=100, model=demo,
                    more=acknowledged),
            station(PLC_STATIONS[1], camera=simulated(seed=self.seed + 1), deadline_ms=100, model=light),
        ]
        pictures = f'{{ kind = "folder", path = "{self.pictures.name}" }}'
        by_clock = [station("folder", clock(PERIOD_MS), pictures, PERIOD_MS, light)]
        by_clock += [
            station(f"demo-{n}", clock(2 * PERIOD_MS), seen(128), 2 * PERIOD_MS, demo) for n in range(1, DEMO_STATIONS + 1)
        ]
        by_clock += [
            station(f"light-{n}", clock(PERIOD_MS), seen(64), PERIOD_MS, light) for n in range(1, LIGHT_STATIONS + 1)
        ]
        period_ms = 5 * PERIOD_MS * (1 + self.variant)
        camera = simulated(width=64 << self.variant, height=64 << self.variant, seed=self.seed + self.variant)
        varied = station("varied", clock(period_ms), camera, 5 * PERIOD_MS, light)
        return [*plc, *by_clock, varied]

    def text(self):
        """The configuration, with what it is to keep so small that it is at its bounds early."""
        return (
            f'run_dir = "{self.run}"\n'
            f'[modbus]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\ntopic_prefix = "{TOPIC}"\nkeep_alive_s = {KEEP_ALIVE_S}\n'
            f'[journal]\ndir = "{self.journal}"\nmax_mb = {JOURNAL_MAX_MB}\n'
            f"[archive]\nmax_gb = {ARCHIVE_MAX_GB}\nmin_free_gb = 0\npass_every = 500\n"
            '[runtime]\nproviders = ["cpu"]\n' + "".join(self.stations())
        )

    def write_config(self, text=None):
        """By renaming, as people are told to."""
        new = self.config.with_suffix(".new")
        new.write_text(text or self.text())
        new.replace(self.config)

    # ------------------------------------------------------------------ processes

    def start(self):
        self.take_pictures()
        self.write_config()
        checked = self.command("check", self.config)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        self.start_broker()
        os.environ.update(UNIT_ENVIRONMENT)
        self.daemon = Process([self.inspectd, "run", "--log", "warn", "--config", self.config], self.work / "inspectd.log")
        (self.work / "daemon.pid").write_text(str(self.daemon.pid))
        until(lambda: (self.status() or {}).get("stations"), START_S, "inspectd tells its status")

    def start_broker(self):
        self.broker.start()
        (self.work / "broker.pid").write_text(str(self.broker.process.pid))

    def take_pictures(self):
        """For the station whose camera is a folder."""
        taken_by = self.work / "pictures.toml"
        camera = simulated(seed=self.seed + 3, defect_rate=0.1)
        text = f'[journal]\ndir = "{self.work}/none"\n' + station("s", camera=camera, model=self.models["light"].name)
        taken_by.write_text(text)
        took = self.command("capture", "--config", taken_by, "--count", PICTURES, "--out", self.pictures)
        assert took.returncode == 0, took.stderr

    def stop(self):
        """Ends both; returns the daemon's exit code."""
        code = None
        try:
            if self.daemon is not None:
                code = self.daemon.terminate()
        finally:
            self.broker.stop()
        return code

    # ------------------------------------------------------------------ questions

    def command(self, *arguments, limit_s=COMMAND_S):
        return subprocess.run(
            [str(a) for a in (self.inspectd, *arguments)],
            capture_output=True, text=True, timeout=limit_s, check=False, env={**os.environ, "NO_COLOR": "1"},
        )

    def status(self):
        """What `inspectd status --json` prints, without a process for each; None where nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(STATUS_S)
                asking.connect(str(self.run / "status.sock"))
                asking.sendall(b'{"ask":"status"}\n')
                answer = b""
                while part := asking.recv(1 << 16):
                    answer += part
            return json.loads(answer)
        except (OSError, ValueError):
            return None

    def reload(self):
        """`inspectd reload`: what was taken, what was refused."""
        asked = self.command("reload", "--socket", self.run / "status.sock", "--json")
        assert asked.returncode in (0, 3), asked.stderr
        return json.loads(asked.stdout)


def process_now(pid):
    """Memory in MB (10^6 bytes), open handles and threads of a process. Source: proc_pid_status(5), proc_pid_fd(5)."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        fields[name] = rest.split()
    mb = {name: int(fields[name][0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon", "RssFile", "RssShmem")}
    return mb, len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"][0])


def bytes_below(folder):
    """Sum of the files' sizes."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(at, name)).st_size
            except OSError:
                pass  # gone since
    return total
