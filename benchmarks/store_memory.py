"""How much memory storing and loading a file of weights takes, in a process of its own.

`python -m benchmarks.store_memory put RUN_ID TOKEN FILE` or `load ARTIFACT_ID`, with the store's settings in the
environment; prints bytes: the peak of resident memory, less what the process had before, less the tensors themselves.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dljobs.service.artifacts import ArtifactStore, Description
from dljobs.service.runs import RunKey
from dljobs.service.schema import open_checked
from dljobs.service.settings import load_settings
from dljobs.workers.stored_weights import load_state_dict


def main(what: str, *arguments: str) -> int:
    """Do it once; returns the bytes."""
    store = ArtifactStore(open_checked(load_settings()))  # connected, and everything imported
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    if what == "put":
        run_id, token, file = arguments
        store.put(RunKey(int(run_id), token), Description("state_dict", "memory"), Path(file))
        return _status("VmHWM") - before
    tensors = load_state_dict(store.open(int(arguments[0])))
    return _status("VmHWM") - before - sum(tensor.nbytes for tensor in tensors.values())


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
