"""`atgnn doctor`: what it finds, that it builds the kernel, and what happens without one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from helpers import tiny_checkpoint, write
from rich.console import Console
from typer.testing import CliRunner

import atgnn
from atgnn import doctor
from atgnn.cli import app
from atgnn.doctor import Graphics, Report, examine
from atgnn.errors import KernelError
from atgnn.graph import backend_in_use
from atgnn.graph import operator as graph_operator
from atgnn.graph.kernels import cpu
from atgnn.shipped import shipped_models
from atgnn.terminal import doctor_table


@pytest.fixture(scope="module")
def report() -> Report:
    return examine()


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def shown(report: Report) -> str:
    console = Console(width=300, highlight=False)
    with console.capture() as capture:
        console.print(doctor_table(report))
    return capture.get()


def processes(programs: list[str], *arguments: object, **variables: str) -> list:
    """Several command lines at once; what they print comes with the exit code."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"{program}\nfrom atgnn.cli import main; main()"]
            + [str(argument) for argument in arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for program in programs
    ]
    return [(*process.communicate(), process.returncode) for process in started]


def no_kernel(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_library", lambda: None)
    graph_operator._warn_of_plain.cache_clear()


# ---------------------------------------------------------------------- what it finds


def test_what_it_finds(report) -> None:
    assert (report.atgnn, report.torch) == (atgnn.__version__, torch.__version__)
    assert report.python == ".".join(map(str, sys.version_info[:3]))
    assert report.processor.threads == torch.get_num_threads()
    assert report.processor.name
    assert report.models == tuple(shipped_models())
    assert report.audio.libsndfile == soundfile.__libsndfile_version__
    assert {"WAV", "FLAC", "OGG", "VORBIS"} <= set(report.audio.formats)
    assert report.graph_kernel.in_use == backend_in_use()
    assert (report.graphics is None) == (
        not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )


def test_a_compiled_kernel_is_faster(report) -> None:
    kernel = report.graph_kernel
    if kernel.in_use == "plain":
        pytest.skip("no compiled kernel here")
    assert kernel.path == str(cpu.library_path())
    assert kernel.shares_threads
    assert kernel.problem is None
    assert kernel.speed_up > 0
    text = shown(report)
    assert f"compiled kernel ({kernel.in_use}" in text
    assert f"{kernel.speed_up:g} x as fast as plain PyTorch, with PyTorch's threads" in text
    assert kernel.path in text
    faster = replace(kernel, in_use="avx512", matrix_units=True)
    assert "kernel (avx512, AMX)" in shown(replace(report, graph_kernel=faster))


def test_json_and_table_say_the_same(monkeypatch, report) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: report)
    loaded = json.loads(run("doctor", "--json").stdout)
    assert loaded == json.loads(json.dumps(report.to_dict()))
    table = " ".join(run("doctor").stdout.split())
    for value in (report.torch, report.processor.name, report.audio.soxr, *report.models):
        assert value in table


def test_instructions_are_read_from_the_system(monkeypatch, tmp_path) -> None:
    text = (
        "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: sse2 fma avx2 amx_bf16\n\nflags\t: x"
    )
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(doctor, "CPUINFO", tmp_path / "cpuinfo")
    found = doctor.processor()
    assert (found.name, found.instructions) == ("Some Xeon", ("avx2", "fma", "amx_bf16"))
    assert found.bfloat16
    monkeypatch.setattr(doctor, "CPUINFO", tmp_path / "missing")
    found = doctor.processor()
    assert found.name
    assert found.instructions == ()
    assert not found.bfloat16


def test_a_missing_extra_comes_with_its_command(monkeypatch, report) -> None:
    versions = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name in ("av", "pandas") else versions(name)
    )
    extras = doctor._extras()
    assert extras["video"] == ("av",)
    assert "pandas" in extras["train"]
    assert not {"test", "dev"} & set(extras)
    text = shown(replace(report, extras=extras, audio=doctor._audio()))
    assert 'pip install ".[video]"' in text
    assert 'pip install ".[train]"' in text
    assert "no PyAV" in text
    assert 'pip install ".[train]"' not in shown(replace(report, extras={"train": ()}))


def test_graphics_cards(report) -> None:
    card = Graphics("Some GPU", "triton", "3.1.0", True)
    text = shown(replace(report, graphics=card))
    assert "Some GPU; graphs: triton (Triton 3.1.0); bfloat16 in hardware" in text
    text = shown(replace(report, graphics=replace(card, graphs="plain", triton=None)))
    assert "graphs: plain (no Triton: pip install triton)" in text


def test_threads_that_are_not_shared(monkeypatch, report) -> None:
    monkeypatch.setattr(cpu, "has_threads", lambda: False)
    monkeypatch.setattr(doctor, "_speed_up", lambda: 3.0)
    monkeypatch.setattr(doctor, "backend_in_use", lambda device: "base")
    kernel = doctor._graph_kernel()
    assert not kernel.shares_threads
    assert "one thread" in shown(replace(report, graph_kernel=kernel))


# ---------------------------------------------------------------------- without a kernel


def test_without_a_kernel_it_says_what_to_do(monkeypatch, report, recwarn) -> None:
    no_kernel(monkeypatch)
    kernel = doctor._graph_kernel()
    assert (kernel.in_use, kernel.path, kernel.speed_up) == ("plain", None, None)
    assert "`atgnn doctor --build`" in shown(replace(report, graph_kernel=kernel))
    assert not recwarn.list
    monkeypatch.setattr(graph_operator, "_chosen", "avx2")  # as ATGNN_KERNEL would
    kernel = doctor._graph_kernel()
    assert kernel.in_use is None
    assert "ATGNN_KERNEL" in shown(replace(report, graph_kernel=kernel))


def test_without_a_kernel_plain_pytorch_serves_and_says_so_once(tmp_path) -> None:
    """In a process of its own, through the command line: one line, and the tags."""
    model = tiny_checkpoint().save_pretrained(tmp_path / "model")
    sounds = [write(tmp_path / f"{i}.wav") for i in range(2)]
    hidden = "from atgnn.graph.kernels import cpu; cpu._found = lambda: None"
    ((output, errors, code),) = processes(
        [hidden], "tag", *sounds, "--json", "--batch-size", 1, "--model", model
    )
    assert code == 0, errors
    assert len(output.splitlines()) == 2
    (line,) = errors.splitlines()
    assert line.startswith("atgnn: warning: no compiled graph kernel")
    assert "atgnn doctor --build" in line


def test_a_backend_that_does_not_exist_is_one_line() -> None:
    ((output, errors, code),) = processes([""], "doctor", ATGNN_KERNEL="nonsense")
    assert (output, code) == ("", 2)
    (line,) = errors.splitlines()
    assert line.startswith("atgnn: ATGNN_KERNEL=nonsense: unknown backend")


def test_plain_by_choice(monkeypatch, report) -> None:
    monkeypatch.setattr(graph_operator, "_chosen", "plain")
    monkeypatch.setattr(cpu, "library_path", lambda: Path("somewhere.so"))
    kernel = doctor._graph_kernel()
    assert kernel.in_use == "plain"
    assert "ATGNN_KERNEL=plain" in shown(replace(report, graph_kernel=kernel))


# ---------------------------------------------------------------------- building it


def test_two_processes_build_at_once(tmp_path) -> None:
    if not has_compiler():
        pytest.skip("no C++ compiler here")
    quick = (
        "from atgnn.graph.kernels import cpu; from pathlib import Path\n"
        "flags = cpu.compile_flags()\n"
        "cpu.compile_flags = lambda: ['-O0' if flag == '-O3' else flag for flag in flags]\n"
        "cpu._BESIDE = ()"
    )
    results = processes(
        [quick] * 2, "doctor", "--build", "--json", XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    places = set()
    for output, errors, code in results:
        assert code == 0, errors
        (line,) = errors.splitlines()
        found = json.loads(output)["graph_kernel"]
        assert line == f"atgnn: the graph kernel is in {found['path']}"
        assert found["in_use"] in cpu.LEVELS
        places.add(Path(found["path"]))
    (library,) = places
    assert tmp_path in library.parents
    assert list(library.parent.iterdir()) == [library]  # nothing left lying about
    assert cpu._fits(library)


def has_compiler() -> bool:
    try:
        return bool(cpu._compiler())
    except KernelError:
        return False


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PATH": ""}, "no C++ compiler found (c++, g++, clang++)"),
        ({"CXX": "compiler-that-is-not-there -m32"}, "no C++ compiler found (compiler-that"),
        ({"CXX": "false"}, "could not build the graph kernel: exit code 1"),
        ({"XDG_CACHE_HOME": os.devnull}, "cannot write the compiled graph kernel"),
    ],
)
def test_what_cannot_be_built_is_one_line(monkeypatch, tmp_path, variables, message) -> None:
    monkeypatch.delenv("CXX", raising=False)
    for name, value in {"XDG_CACHE_HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    if "XDG_CACHE_HOME" in variables:
        monkeypatch.setattr(cpu, "_compiler", lambda: ["true"])
    result = run("doctor", "--build", code=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("atgnn: ")
    assert message in line
    assert result.stdout == ""


def test_the_compilers_own_error_is_shown(monkeypatch, tmp_path) -> None:
    script = tmp_path / "compiler"
    script.write_text("#!/bin/sh\necho 'In file x:\nline 1: error: too old' >&2; exit 1")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", f"{script} -some-flag")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(KernelError, match="line 1: error: too old"):
        cpu.build()


def test_a_user_without_a_home(monkeypatch) -> None:
    """Has no cache, but what was built with the package serves."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert cpu._found() is None or cpu._found().parent == Path(cpu.__file__).parent
    assert doctor._kernel_cache() is None
    monkeypatch.setattr(cpu, "_compiler", lambda: ["true"])
    with pytest.raises(KernelError, match="home"):
        cpu.build()


def test_a_kernel_that_does_not_load_is_said(monkeypatch, tmp_path) -> None:
    """For example, where the cache is mounted without execution."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "_compile", lambda compiler, target: target.write_bytes(b"no library"))
    monkeypatch.setattr(cpu, "loads", lambda: False)
    with pytest.raises(KernelError, match="does not load"):
        cpu.build()
    monkeypatch.undo()
    cpu._library.cache_clear()
