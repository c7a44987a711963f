"""A line in a folder of its own: the real inspectd, a real Mosquitto, a real mosquitto_sub.

Every wait is for a condition and has a limit. Every process that is started here is ended here, by its
own handle.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SBIN = f"{os.environ['PATH']}:/usr/sbin"
TOPIC = "works/hall/area/line"

PROCESS_STOP_S = 15
BROKER_START_S = 10
DAEMON_START_S = 20
READY_S = 30


def until(condition, limit_s, what, pause_s=0.02):
    """Waits for `condition` to give something true and returns it."""
    end = time.monotonic() + limit_s
    while True:
        got = condition()
        if got:
            return got
        assert time.monotonic() < end, f"waited {limit_s} s in vain: {what}"
        time.sleep(pause_s)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


class Process:
    """A program whose output goes to a file."""

    def __init__(self, arguments, log):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                [str(a) for a in arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": SBIN, "NO_COLOR": "1"},
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.child.pid

    def is_running(self):
        return self.child.poll() is None

    def send(self, number):
        if self.is_running():
            self.child.send_signal(number)

    def ended(self, limit_s=PROCESS_STOP_S):
        """Its exit code; kills it where it does not end."""
        try:
            return self.child.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"{self.log}: did not end within {limit_s} s") from None

    def terminate(self):
        self.send(signal.SIGTERM)
        return self.ended()

    def kill_9(self):
        self.send(signal.SIGKILL)
        return self.ended()

    def text(self):
        return Path(self.log).read_text(errors="replace")


class Broker:
    """A Mosquitto that keeps what it holds over a restart."""

    def __init__(self, folder):
        self.folder = folder / "broker"
        self.folder.mkdir()
        self.port = free_port()
        self.process = None
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\n"
            "allow_anonymous true\n"
            "persistence true\n"
            f"persistence_location {self.folder}/\n"
            # Nothing is dropped for a consumer that is away.
            "max_queued_messages 0\n"
            f"user {user}\n"
        )

    def start(self):
        self.process = Process(["mosquitto", "-c", self.folder / "mosquitto.conf"], self.folder / "log")
        until(self.answers, BROKER_START_S, "Mosquitto listens")

    def answers(self):
        assert self.process.is_running(), f"Mosquitto ended: {self.process.text()[-500:]}"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process = None


class Subscriber:
    """A mosquitto_sub with a persistent session."""

    def __init__(self, broker, folder, name="checker"):
        self.broker, self.name = broker, name
        self.out = folder / f"{name}.out"
        self.process = None

    def start(self):
        """Returns when the broker holds the session."""
        options = ["-h", "127.0.0.1", "-p", self.broker.port, "-i", self.name, "-c", "-q", "1"]
        show = ["-t", f"{TOPIC}/#", "-F", "%t\t%r\t%q\t%p"]
        # -d tells when the subscription stands; its lines begin with no topic of ours. stdbuf: line by line.
        self.process = Process(["stdbuf", "-oL", "mosquitto_sub", "-d", *options, *show], self.out)
        until(lambda: "Subscribed" in self.process.text(), BROKER_START_S, "mosquitto_sub subscribed")

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process = None

    def messages(self):
        """All that came so far: (topic below the prefix, retained, payload)."""
        found = []
        for line in self.out.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith(f"{TOPIC}/") and line.endswith("\n"):
                topic, retained, _qos, payload = line.rstrip("\n").split("\t", 3)
                found.append((topic.removeprefix(f"{TOPIC}/"), retained == "1", json.loads(payload)))
        return found

    def records(self, kind="inspection"):
        return [payload for topic, _, payload in self.messages() if topic.rsplit("/", 1)[-1] == kind]


def once_each(records):
    """Records without doubles, in order, and how many doubles there were. Doubles must be the same."""
    seen, doubles = {}, 0
    for record in records:
        key = (record["journal"], record["sequence"])
        doubles += key in seen
        assert seen.setdefault(key, record) == record, f"two records of one number: {record}"
    return list(seen.values()), doubles


def retained(broker, topic, limit_s=5):
    """The retained message of a topic as a fresh client gets it."""
    arguments = ["-h", "127.0.0.1", "-p", str(broker.port), "-t", f"{TOPIC}/{topic}", "-C", "1"]
    got = subprocess.run(
        ["mosquitto_sub", *arguments, "--retained-only", "-W", str(limit_s)],
        capture_output=True, text=True, timeout=limit_s + 5, check=False,
    )
    assert got.stdout, f"nothing retained at {topic}: {got.stderr}"
    return json.loads(got.stdout)


def simulated(**settings):
    """A simulated camera, as TOML."""
    settings = {"seed": 1, "width": 64, "height": 64, **settings}
    return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in {"kind": "simulated", **settings}.items()) + " }"


def station(name, trigger='{ source = "plc" }', camera=None, deadline_ms=3000, model="model.onnx", more=""):
    """One station of the configuration, as TOML. Deadlines are long: this machine does other things too."""
    return f"""
[[station]]
name = "{name}"
trigger = {trigger}
deadline_ms = {deadline_ms}
gate = {{ time_to_gate_ms = {deadline_ms + 20}, plc_poll_ms = 10, plc_scan_ms = 10 }}
{more}
[[station.view]]
name = "{name}-top"
{f'model = "{model}"' if model else ""}
camera = {camera or simulated()}
"""


class Line:
    """Everything that one test runs, in a folder of its own; all of it is gone at the end."""

    def __init__(self, inspectd, model):
        self.inspectd, self.model = inspectd, model
        self.folder = Path(tempfile.mkdtemp(prefix="inspectd-test."))
        self.broker, self.daemon, self.subscribers, self.clients = None, None, [], []
        self.port = free_port()
        self.config = self.folder / "inspectd.toml"
        shutil.copyfile(model, self.folder / "model.onnx")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # Each step is taken, whatever the one before it came to.
        with contextlib.ExitStack() as steps:
            steps.callback(shutil.rmtree, self.folder, ignore_errors=True)
            if self.daemon is not None:
                if kind is not None:
                    steps.callback(self.show_log)
                if self.daemon.is_running():
                    steps.callback(self.daemon.kill_9)
            for process in [self.broker, *self.subscribers]:
                if process is not None:
                    steps.callback(process.stop)
            for client in self.clients:
                steps.callback(client.close)

    def show_log(self):
        print("      log of inspectd ends:", *self.daemon.text().splitlines()[-12:], sep="\n        ")

    def say(self, text):
        """A measured fact, beside the test's own line."""
        print(f"      {text}")

    def configure(self, *stations, word_order="high_first", mqtt=True, journal="", modbus=""):
        text = f'[modbus]\nlisten = "127.0.0.1:{self.port}"\nword_order = "{word_order}"\n{modbus}\n'
        text += f'[journal]\ndir = "journal"\n{journal}\n[runtime]\nproviders = ["cpu"]\n'
        if mqtt:
            text += f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\ntopic_prefix = "{TOPIC}"\n'
        self.config.write_text(text + "".join(stations or [station("s1")]))

    def start_broker(self):
        self.broker = Broker(self.folder)
        self.broker.start()

    def subscribe(self):
        subscriber = Subscriber(self.broker, self.folder)
        self.subscribers.append(subscriber)
        subscriber.start()
        return subscriber

    def start(self):
        """Starts inspectd; returns when Modbus answers."""
        self.daemon = Process([self.inspectd, "run", "--log", "info", "--config", self.config], self.folder / "inspectd.log")
        until(self.answers, DAEMON_START_S, "Modbus answers")
        return self.daemon

    def answers(self):
        assert self.daemon.is_running(), f"inspectd ended:\n{self.daemon.text()[-2000:]}"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def plc(self, **settings):
        """A PLC that is connected; see plc.Plc."""
        from plc import Plc

        client = Plc(self.port, **settings)
        self.clients.append(client)
        return client

    def ready_plc(self, **settings):
        """A PLC at a station that takes triggers."""
        client = self.plc(**settings)
        client.arm(READY_S)
        return client

    def ask(self, command, *more, limit_s=150):
        """`inspectd status` or `reload`."""
        # Not by --config, which a test may have broken.
        socket_path = self.folder / "journal" / "status.sock"
        arguments = [self.inspectd, command, "--socket", socket_path, *more]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=limit_s, check=False)

    def status(self):
        """The daemon's status; None where it cannot be asked."""
        asked = self.ask("status", "--json")
        return json.loads(asked.stdout) if asked.returncode in (0, 3) else None

    def stop(self):
        """SIGTERM; the exit code must be 0."""
        code = self.daemon.terminate()
        assert code == 0, f"inspectd ended with {code}"


def agree(results, records, station_name="s1"):
    """Every result read over Modbus is published with the same verdict. Returns the verdicts' counts."""
    by_part = {(r["station"], r["part"]): r for r in records}
    for result in results:
        record = by_part.get((station_name, result["part"]))
        assert record is not None, f"part {result['part']} of {station_name} was not published"
        assert record["trigger"]["trigger_id"] == result["result_trigger_id"], (record, dict(result))
        assert record["verdict"] == result.verdict, (record, dict(result))
        assert (record["gate"] == "pass") == (result["gate"] == 1), (record, dict(result))
    return Counter(r["verdict"] for r in records)
