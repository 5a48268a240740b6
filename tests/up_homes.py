"""A home on which tests run `dljobs up`, with a stand-in for the worker that needs no torch."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dljobs.service.embedded_redis import EmbeddedRedis
from dljobs.service.settings import Settings, load_settings
from dljobs.service.up import UpOptions
from dljobs.service.up_record import UpRecord, UpState
from dljobs.service.worker_process import child_environment
from tests.waiting import wait_until

# Does as it is told by its --name: it says when it is ready, notes each SIGTERM, and ends in various ways.
STAND_IN = """
import json, os, signal, sys
from pathlib import Path
options = json.loads(sys.argv[1])
home, how, stops = Path(os.environ["DLJOBS_HOME"]), options["name"] or "obedient", []
def note(*_):
    stops.append(1)
    with (home / "stops").open("a") as file: print(os.getpid(), file=file)
    if how == "obedient" or (how == "slow" and len(stops) == 2): os._exit(0)
signal.signal(signal.SIGTERM, note)
(home / "options.json").write_text(json.dumps(options))
if how == "wrong-option": print("error: no such device", file=sys.stderr); sys.exit(2)
if how == "broken": print("Traceback: torch is missing", file=sys.stderr); sys.exit(1)
if how != "never-ready": os.write(int(os.environ["DLJOBS_READY_FD"]), f"ready {how} 4\\n".encode())
if how == "crashing" and not (home / "crashed").exists(): (home / "crashed").touch(); os._exit(7)
while True: signal.pause()
"""
PATCH = "from dljobs.service import worker_process; worker_process.COMMAND = (sys.executable, sys.argv[1]); "
FOREGROUND = (
    "import sys; "
    + PATCH
    + "from dljobs.service import up; from dljobs.service.settings import load_settings; "
    + "say = lambda line: print(line, flush=True); "
    + "sys.exit(up.Up(load_settings(), up.UpOptions.from_json(sys.argv[2]), say).run())"
)
BACKGROUND = "import sys; " + PATCH + "from dljobs.service import up; sys.exit(up.main(sys.argv[2:]))"


@dataclass
class Home:
    """A home, with ways to run `up` on it."""

    settings: Settings
    stand_in: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def record(self) -> UpRecord:
        return UpRecord(self.settings.home)

    @property
    def redis(self) -> EmbeddedRedis:
        return EmbeddedRedis(self.settings.home)

    @property
    def output(self) -> str:
        return (self.settings.home / "output").read_text()

    @property
    def environment(self) -> dict[str, str]:
        return child_environment(self.settings, -1)

    def up(self, options: UpOptions | None = None) -> subprocess.Popen[str]:
        """`dljobs up` in the foreground."""
        self.settings.home.mkdir(exist_ok=True)
        with (self.settings.home / "output").open("a") as output:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", FOREGROUND, self.stand_in, (options or UpOptions()).to_json()],
                env=self.environment,
                stdout=output,
                stderr=output,
                text=True,
            )
        self.children.append(child)
        return child

    def await_running(self) -> UpState:
        wait_until(lambda: self.record.read().phase == "running", 20, lambda: f"running; it said:\n{self.output}")
        return self.record.read()

    def num_stops(self) -> int:
        """How many SIGTERMs the stand-in has got."""
        path = self.settings.home / "stops"
        return len(path.read_text().splitlines()) if path.exists() else 0


class Homes:
    """Makes homes; what still runs on them in the end is killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._homes: list[Home] = []
        self.stand_in = folder / "stand_in.py"
        self.stand_in.write_text(STAND_IN)

    def __call__(self, name: str = "home", **flags: object) -> Home:
        settings = load_settings({"home": str(self._folder / name), "grace_s": 5.0, **flags}, {})
        self._homes.append(Home(settings, self.stand_in))
        return self._homes[-1]

    @property
    def background_command(self) -> tuple[str, ...]:
        """In place of `up_detached.COMMAND`: the same, with the stand-in."""
        return (sys.executable, "-P", "-c", BACKGROUND, str(self.stand_in))

    def close(self) -> None:
        for home in self._homes:
            state = home.record.read()
            for mark in (state.up, state.worker):
                if mark:
                    mark.send(signal.SIGKILL)
            for child in home.children:
                child.kill()
                child.wait()
            home.redis.stop()
