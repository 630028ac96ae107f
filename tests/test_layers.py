"""The architecture, checked by the imports: which modules and packages a module may use."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dagr_jax"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# From bottom to top. A part imports only from lower parts, and from its own folder.
LAYERS = (
    {"runtime"},
    {"registry"},
    {"layers", "metrics", "video"},
    {"data", "models"},
    {"train"},
    {"convert"},
    {"score"},
    {"report"},
    {"stages"},
    {"bench", "studies"},
    {"configs"},
    {"main", "cli"},
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

# What must run where nothing else is installed. The inputs of a model are plain data of video/.
PURE = (
    "dagr_jax.layers",
    "dagr_jax.models",
    "dagr_jax.train.state",
    "dagr_jax.train.steps",
    "dagr_jax.video.inputs",
    "dagr_jax.video.resize",
    "dagr_jax.video.sampling",
)
# The configurations of a model are of ml_collections, and loaded when somebody asks for them.
CONFIGS = tuple(
    name for name in MODULES if name.startswith("dagr_jax.models") and name.endswith(".config")
)
# Needs the standard library alone, so the pure parts and the configs may use it.
ERRORS = "dagr_jax.runtime.errors"
PURE_MAY_USE = {"jax", "flax", "optax", "numpy", "jaxtyping"} | sys.stdlib_module_names
MAX_LINES = 400


def imports(path: Path, module: str) -> set[str]:
    """Returns the full names of all imports in a file, at any level."""
    found = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str | None:
    """'dagr_jax.models.dagr.unet3d.Model' → 'models'; None for names of the package itself."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] in RANK else None


def test_reading_of_imports(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        "import numpy as np\nfrom dagr_jax.models import dagr\nfrom . import steps\n"
        "from .state import TrainState\nfrom ..video import decode\n"
        "def f():\n    import av.error\n"
    )
    assert imports(path, "dagr_jax.train.sample") == {
        "numpy",
        "dagr_jax.models.dagr",
        "dagr_jax.train.steps",
        "dagr_jax.train.state.TrainState",
        "dagr_jax.video.decode",
        "av.error",
    }
    assert part("dagr_jax.models.dagr.unet3d.Model") == "models"
    assert part("dagr_jax.__version__") is None and part("dagr_jax") is None


def test_every_module_has_a_layer():
    unknown = [name for name in MODULES if name != "dagr_jax" and part(name) is None]
    assert not unknown, f"add these parts to LAYERS, at their height: {unknown}"
    assert {"dagr_jax.video.decode", "dagr_jax.metrics.agreement"} <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_below(module):
    if module == "dagr_jax":  # it refers to its parts only by strings, to import them on use
        assert not any(part(name) for name in imports(MODULES[module], module))
        return
    own = part(module)
    wrong = [
        name
        for name in imports(MODULES[module], module)
        if name.split(".")[0] == "dagr_jax"
        and (other := part(name)) is not None
        and other != own
        and RANK[other] >= RANK[own]
    ]
    assert not wrong, f"{module} is at height {RANK[own]} and imports {wrong}"


PURE_MODULES = [name for name in MODULES if name.startswith(PURE) and name not in CONFIGS]


@pytest.mark.parametrize("module", PURE_MODULES)
def test_pure_parts_need_jax_alone(module):
    foreign = {name.split(".")[0] for name in imports(MODULES[module], module)}
    foreign -= PURE_MAY_USE | {"dagr_jax"}
    assert not foreign, f"{module} imports {foreign}; it must run without them"
    ours = {name for name in imports(MODULES[module], module) if part(name) is not None}
    allowed = (*PURE, "dagr_jax.registry", f"{ERRORS}.")
    impure = {name for name in ours if not name.startswith(allowed)}
    assert not impure, f"{module} imports {impure}, which need more than JAX"


def test_errors_need_the_standard_library_alone():
    used = {name.split(".")[0] for name in imports(MODULES[ERRORS], ERRORS)}
    assert used <= sys.stdlib_module_names


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_pure_parts_load_where_nothing_else_is_installed():
    absent = ["av", "grain", "matplotlib", "ml_collections", "pandas", "safetensors", "skimage"]
    absent += ["sklearn", "tensorboardX", "tensorflow_datasets", "tensorflow", "torch", "tqdm"]
    wanted = PURE_MODULES
    code = (
        "import importlib, sys\n"
        f"for name in {absent}: sys.modules[name] = None  # an import of it raises\n"
        f"for name in {wanted}: importlib.import_module(name)\n"
        "print(len([name for name in sys.modules if name.startswith('dagr_jax.')]))"
    )
    assert int(run_python(code)) >= len(wanted)


def test_video_metrics_and_the_start_of_ray_need_no_jax():
    names = [name for name in MODULES if part(name) in ("metrics", "video")]
    names += ["dagr_jax.runtime.atomic", "dagr_jax.runtime.startup", "dagr_jax.score.ray_engine"]
    code = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print('jax' in sys.modules)"
    )
    assert run_python(code) == "False"


def test_configs_are_data():
    inside = [name for name in MODULES if part(name) == "configs"]
    allowed = ("ml_collections", "dagr_jax.configs", f"{ERRORS}.", *CONFIGS)
    allowed += ("collections.abc", "typing")
    for name in [*inside, *CONFIGS]:
        foreign = {one for one in imports(MODULES[name], name) if not one.startswith(allowed)}
        assert not foreign, f"{name} imports {foreign}; a config is plain ml_collections data"
    files = sorted((ROOT / "configs").glob("*.py"))
    assert {f"dagr_jax.configs.{path.stem}" for path in files} == {*inside} - {"dagr_jax.configs"}
    for path in files:
        own = f"dagr_jax.configs.{path.stem}"
        assert imports(path, f"configs.{path.stem}") == {f"{own}.get_config"}, path
        code = f"import sys, {own}\n{own}.get_config()\nprint('jax' in sys.modules)"
        assert run_python(code) == "False", f"{own} loads JAX"


@pytest.mark.parametrize("path", [*MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))])
def test_files_stay_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines; split it by idea"


def test_no_grab_bags():
    names = {path.stem for path in MODULES.values()}
    assert not names & {"utils", "helpers", "misc", "common"}


def test_pins_satisfy_the_lower_bounds():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        version = versions.get(canonicalize_name(wanted.name))
        assert version is not None, f"requirements.txt does not pin {wanted.name}"
        assert wanted.specifier.contains(version), f"{wanted} but requirements.txt has {version}"
    heavy = {"torch", "tensorflow", "ray"} | {n for n in versions if "cuda" in n or "nvidia" in n}
    assert not heavy & versions.keys()
    cuda = (ROOT / "requirements-cuda12.txt").read_text().splitlines()
    assert [line for line in cuda if not line.startswith("#")] == [
        "-r requirements.txt",
        f"jax[cuda12]=={versions['jax']}",
    ]
