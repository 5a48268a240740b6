"""What a step frees is there for the next one."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, json, resource
from dljobs.workers.host_memory import keep_freed
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def faults_of_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [libc.malloc(16 << 20) for _ in range(8)]
        for block in blocks:
            ctypes.memset(block, 1, 16 << 20)
        for block in blocks:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults_of_steps()
keep_freed()
faults_of_steps()
print(json.dumps([before, faults_of_steps()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_a_step_takes_the_memory_of_the_one_before() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", CODE], check=True, capture_output=True, text=True)
    before, after = json.loads(done.stdout)
    assert before > 10_000
    assert after < 100
