"""How late this machine wakes a process that asked to be woken: what it does to any latency, the daemon's among them.

Never here: anything of inspectd.
"""

import multiprocessing
import signal
import time

ASKED_S = 0.005


def measure(told):
    """Sends how late it was, microseconds, a second's worth at a time, until its parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    while parent.is_alive():
        late_us = []
        for _ in range(200):
            due = time.monotonic() + ASKED_S
            time.sleep(ASKED_S)
            late_us.append((time.monotonic() - due) * 1e6)
        told.send(late_us)


class Yardstick:
    """Measures beside the soak, in a process of its own."""

    def __init__(self):
        self.heard, told = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.Process(target=measure, args=(told,), daemon=True)

    def start(self):
        self.process.start()

    def take(self):
        """What was measured since this was last asked."""
        late_us = []
        while self.heard.poll():
            late_us += self.heard.recv()
        return late_us

    def stop(self):
        if self.process.is_alive():
            self.process.kill()
