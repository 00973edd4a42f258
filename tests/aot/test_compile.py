"""`compile_for` on the local CPU, and its messages when a compiler fails."""

import os
import subprocess

import jax
import pytest

import segjax
from segjax.aot import compile as aot
from segjax.aot.report import Memory, ProgramReport
from segjax.aot.targets import parse_target
from segjax.aot.text import lines
from segjax.aot.worker import CUBLAS, Request, compile_lowered, needed_bytes
from segjax.cli import main
from tests.support.small_runs import small_run


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Returns the report on a small prediction program and the folder with its text."""
    folder = tmp_path_factory.mktemp("saved")
    found = segjax.compile_for(
        small_run("semantic_fpn", "float32"), "cpu:2", what=["predict"], save=folder
    )
    return found, folder


def test_a_prediction_is_compiled_in_another_process(predicted):
    found, folder = predicted
    (program,) = found.programs
    assert found.fits
    assert (program.what, program.target, program.dtype) == ("predict", "cpu:2", "float32")
    assert (program.per_device, program.canvas) == (2, (128, 192))
    assert program.flops > 1e8
    assert program.products > 20
    assert program.memory.total > program.memory.arguments > 10**7
    assert (folder / "cpu:2.predict.txt").read_text().startswith("HloModule")


def test_a_report_goes_to_json_and_back(predicted):
    (program,) = predicted[0].programs
    assert ProgramReport.from_json(program.to_json()) == program


def test_a_report_is_read_in_lines(predicted):
    text = "\n".join(lines(predicted[0].programs[0]))
    assert "predict for cpu:2: 2 images per device of 128 x 192, float32" in text
    assert "memory per device" in text
    assert "largest buffers" in text
    assert "semantic_head" in text


class AbortingRequest:
    """Aborts the process that unpickles it, like a failed assertion in a compiler."""

    what, target = "train", "cpu"

    def __reduce__(self):
        return os.abort, ()


def test_a_compiler_that_aborts_is_an_error_here():
    with pytest.raises(aot.CompilationError, match=r"aborted on train for cpu .exit status -6"):
        aot.run_request(AbortingRequest(), parse_target("cpu"))


class Lowered:
    """A program that Triton cannot tile unless its kernels are turned off."""

    def __init__(self, error):
        self.error, self.asked = error, []

    def compile(self, compiler_options=None):
        self.asked.append(dict(compiler_options or {}))
        if "xla_gpu_enable_triton_gemm" in self.asked[-1]:
            return "compiled"
        raise jax.errors.JaxRuntimeError(self.error)


def test_where_triton_has_no_tiles_cublas_takes_all_products():
    lowered = Lowered("INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot.1")
    assert compile_lowered(lowered, "cuda") == ("compiled", (CUBLAS,))
    assert lowered.asked[-1] == {
        "xla_gpu_autotune_level": 0,
        "xla_gpu_enable_triton_gemm": False,
    }
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"):
        compile_lowered(Lowered("another"), "cuda")


def test_a_failed_check_is_told_without_its_log_prefix():
    stderr = "I0 noise\nF1201 01:43:22.03 3822 triton_tiling.cc:627] Check failed: a == b (4 vs. 1)"
    done = subprocess.CompletedProcess([], -6, "", f"{stderr}\n*** stack ***\n    @ 0x1 f()\n")
    said = aot._cause_of_death(Request(small_run("lite"), "h100", "train"), done)
    assert said == (
        "the compiler aborted on train for h100 (exit status -6): triton_tiling.cc:627] Check"
        " failed: a == b (4 vs. 1)"
    )


def test_wrong_requests_are_refused_before_anything_is_compiled():
    config = small_run("mask_rcnn")
    with pytest.raises(ValueError, match="the kinds of devices are"):
        segjax.compile_for(config, "tpu")
    with pytest.raises(ValueError, match="no program 'test'"):
        segjax.compile_for(config, "cpu", what=["test"])
    with pytest.raises(ValueError, match="multiples of 32 pixels"):
        segjax.compile_for(config, "cpu", image_size=(100, 128))


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("RESOURCE_EXHAUSTED: Used 17.50G of 15.75G hbm", int(17.5 * 2**30)),
        ("Used 512.0M of 15.75G hbm.", 2**29),
        ("RESOURCE_EXHAUSTED: no figure", None),
    ],
)
def test_the_memory_that_a_refusal_names_is_read(text, needed):
    assert needed_bytes(text) == needed


def _report(images, temporaries, available=100):
    memory = Memory(arguments=20, outputs=0, aliased=0, temporaries=temporaries, code=0)
    return ProgramReport(
        *("train", "h100", "0", images, (32, 32), "float32", 0.0, memory, available),
        *(None, None, 0, (), (), (), 0, (), ()),
    )


@pytest.mark.parametrize(("each", "images", "fits"), [(10, 16, 8), (30, 4, 2), (90, 4, 0)])
def test_the_batch_that_fits_is_found_by_compiling(each, images, fits, monkeypatch):
    """A device of 100 bytes, with 20 taken by the parameters."""
    tried = []

    def compiled(request, target):
        tried.append(request.per_device)
        return _report(request.per_device, each * request.per_device)

    monkeypatch.setattr(aot, "run_request", compiled)
    request = Request(small_run("lite"), "h100", "train", images)
    target = parse_target("h100")
    assert aot._fitting_batch(request, target, _report(images, each * images)) == fits
    assert len(tried) <= 2
    refused = aot.TooLarge("train", "h100", images, (32, 32), None, 100)
    assert aot._fitting_batch(request, target, refused) == fits


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch, capsys, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from tests.support.small_runs import small_run\n"
        "def get_config():\n    return small_run('mask_rcnn')\n"
    )
    monkeypatch.setattr(
        aot, "run_request", lambda r, t: _report(r.per_device or 16, 10 * (r.per_device or 16))
    )
    assert main(["compile", "--config", str(path), "--target", "h100", "--what", "train"]) == 1
    said = capsys.readouterr()
    assert "train for h100: 16 images per device" in said.out
    assert "train does not fit on h100: 16 images per device need" in said.err
    assert "8 would fit" in said.err


def test_the_command_finds_recipes_by_name(capsys):
    assert main(["compile", "--config", "no_such_recipe", "--target", "cpu"]) == 1
    assert "no config file no_such_recipe" in capsys.readouterr().err
