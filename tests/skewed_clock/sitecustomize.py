"""Shifts the clock of a worker process and its ranks by DLJOBS_TEST_CLOCK_S seconds, as on a host whose time is wrong.

Python imports a module of this name at its start; tests put this folder on PYTHONPATH of the workers they start.
"""

import os
import time

if shift_s := float(os.environ.get("DLJOBS_TEST_CLOCK_S", "0")):
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + shift_s
    time.time_ns = lambda: true_time_ns() + int(shift_s * 1e9)
