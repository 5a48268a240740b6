"""Models of installed packages: found by their entry points, read without being imported, trained like the zoo's."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

NET = '''
import torch  # a client has none: it must not come here
from torch import nn
from dljobs.models.catalog import dataset, model
from dljobs.models.data import Data, TensorSplit

@model("NAME", summary="a linear model", source="a package", num_parameters=7850, data="stripes", loss="cross_entropy",
       metric="accuracy", goal="max", expected="it learns", epochs=1, batch_size=10)
class Net(nn.Module):
    """Linear.

    Args:
        bias: whether it has one
    """
    def __init__(self, in_features: int = 4, num_classes: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes, bias=bias)

    def forward(self, x):
        return self.linear(x)
'''
STRIPES = '''
import torch
from pathlib import Path
from dljobs.models.catalog import dataset
from dljobs.models.data import Data, TensorSplit

@dataset("stripes", summary="s", source="s", task="classification", shape=(4,), num_classes=2)
def stripes(root: Path, *, count: int = 20) -> Data:
    """Rows of zeros and rows of ones."""
    y = torch.arange(count) % 2
    split = TensorSplit(y[:, None].float().expand(-1, 4), y)
    return Data(split, split, (4,), num_classes=2)
'''


def install(site: Path, package: str, module: str, **files: str) -> None:
    """What pip leaves behind of a package that registers `module`."""
    about = site / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[dljobs.models]\nzoo = {module}\n")
    for name, text in files.items():
        path = site.joinpath(package, *name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (site / package).mkdir(exist_ok=True)
    (site / package / "__init__.py").write_text("raise SystemExit('a client imported the package')\n")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    install(site, "ourzoo", "ourzoo.nets", nets__net=NET.replace("NAME", "our-linear"), nets__data=STRIPES)
    (site / "ourzoo" / "nets" / "__init__.py").write_text("raise SystemExit('a client imported the package')\n")
    return site


def run(site: Path, code: str) -> list[str]:
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_they_are_read_and_not_imported(site: Path) -> None:
    lines = run(site, """
        from dljobs.models import catalog
        entry = catalog.find_model("our-linear")
        print(entry.target, entry.collection, entry.options["bias"].doc)
        print("our-linear" in catalog.all_models(), "stripes" in catalog.datasets(), catalog.problems())
        print({"torch", "ourzoo"} & set(sys.modules))
        from dljobs.service.submission import Request, prepare
        spec = prepare(Request("our-linear", sets=["bias=false"]), "ada").spec
        print(spec.model, spec.data, spec.model_options, spec.training.batch_size)
    """)  # fmt: skip
    assert lines == [
        "ourzoo.nets.net:Net installed whether it has one",
        "True True []",
        "set()",
        "our-linear stripes {'bias': False} 10",
    ]


def test_they_are_built_and_loaded_where_torch_is(site: Path) -> None:
    for init in (site / "ourzoo").rglob("__init__.py"):
        init.write_text("")
    lines = run(site, """
        from pathlib import Path
        from dljobs.models.build import build_model
        from dljobs.models.data import load_data
        print(build_model("our-linear", {}, load_data("stripes", {}, Path())).linear)
    """)  # fmt: skip
    assert lines == ["Linear(in_features=4, out_features=2, bias=True)"]


def test_a_broken_package_keeps_nobody_from_the_zoo(site: Path) -> None:
    install(site, "thief", "thief", net=NET.replace("NAME", "lenet"))
    install(site, "bad", "bad.net", net=NET.replace('"NAME"', "name()"))
    install(site, "gone", "gone.nets")
    lines = run(site, """
        from dljobs.models import catalog
        print(catalog.find_model("lenet").target)
        catalog.find_model("our-linear")
        print(*catalog.problems(), sep="\\n")
        try:
            catalog.find_model("our-linea")
        except Exception as error:
            print(error.message, error.hint)
    """)  # fmt: skip
    assert lines[0] == "dljobs.models.lenet:LeNet"
    assert "package bad: " in lines[1]
    assert "the name must be a literal" in lines[1]
    assert lines[2] == "package gone registers 'gone.nets', and there is no source of that module"
    assert "package thief: " in lines[3]
    assert "model 'lenet' has a name that is taken already" in lines[3]
    assert "did you mean 'our-linear'?" in lines[4]
    assert "package thief" in lines[4]
