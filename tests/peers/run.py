#!/usr/bin/env python3
"""Tests of the real inspectd against peers that nobody here wrote: pymodbus, mbpoll, Mosquitto, mosquitto_sub.

Usage: PYTHONPATH=/usr/local/lib/inspectd/python tests/peers/run.py [--inspectd FILE] [--model FILE] [WORD...]

With words, only tests whose name holds one of them. Ends with `N passed, N failed`.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import fault_tests
import handshake_tests
import in_sight_tests
import modbus_tests
import mqtt_tests
import supervise_tests
from line import ROOT, Line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    parser.add_argument("--inspectd", type=Path, default=Path(target) / "debug" / "inspectd")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "demo.onnx")
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    for file in (arguments.inspectd, arguments.model):
        if not file.is_file():
            parser.error(f"no such file: {file}")
    # So that everything that was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    modules = (modbus_tests, handshake_tests, in_sight_tests, mqtt_tests, fault_tests, supervise_tests)
    tests = [t for module in modules for t in module.TESTS]
    if arguments.words:
        tests = [t for t in tests if any(word in t.__name__ for word in arguments.words)]
    passed = failed = 0
    for test in tests:
        name = test.__name__.removeprefix("test_").replace("_", " ")
        began = time.monotonic()
        try:
            with Line(arguments.inspectd.resolve(), arguments.model.resolve()) as line:
                test(line)
        except Exception:
            failed += 1
            print(f"FAIL  {name} ({time.monotonic() - began:.1f} s)")
            traceback.print_exc(file=sys.stdout)
        else:
            passed += 1
            print(f"ok    {name} ({time.monotonic() - began:.1f} s)")
        sys.stdout.flush()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
