"""Parsing of compiled programs: a handwritten one, and XLA's output for a known function."""

import jax
import jax.numpy as jnp
import pytest

from segjax.aot import hlo, report

TEXT = """\
HloModule jit_step, is_scheduled=true

%fused (param_0: f32[8,4], param_1: f32[4,2]) -> f32[8,2] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %param_1 = f32[4,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,2]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}, \
metadata={op_name="jit(step)/jvp(Model.losses)/Model.features/fpn/fpn._conv/lateral5/dot_general"}
}

%moved (param_0.1: bf16[1024,1024]) -> bf16[1024,1024] {
  %param_0.1 = bf16[1024,1024]{1,0} parameter(0)
  ROOT %transpose.1 = bf16[1024,1024]{1,0} transpose(%param_0.1), dimensions={1,0}
}

%body (state: (s32[], f32[8,2])) -> (s32[], f32[8,2]) {
  %state = (s32[], f32[8,2]{1,0}) parameter(0)
  %element.1 = f32[8,2]{1,0} get-tuple-element(%state), index=1
  %gather.1 = f32[8,2]{1,0} custom-call(%element.1), custom_call_target="x"
  ROOT %tuple.1 = (s32[], f32[8,2]{1,0}) tuple(%gather.1, %gather.1)
}

%condition (state.1: (s32[], f32[8,2])) -> pred[] {
  %state.1 = (s32[], f32[8,2]{1,0}) parameter(0)
  ROOT %less.1 = pred[] constant(true)
}

ENTRY %main (a: f32[8,4], b: f32[4,2], c: bf16[1024,1024]) -> f32[8,2] {
  %a = f32[8,4]{1,0:T(8,128)S(1)} parameter(0), metadata={op_name="state.params['a']"}
  %b = f32[4,2]{1,0} parameter(1)
  %c = bf16[1024,1024]{1,0} parameter(2)
  %fusion.1 = f32[8,2]{1,0} fusion(%a, /*index=1*/%b), kind=kLoop, calls=%fused
  %fusion.2 = bf16[1024,1024]{1,0} fusion(%c), kind=kLoop, calls=%moved, \
metadata={op_name="jit(step)/transpose(jvp(head))/transpose"}
  %reduce.1 = (f32[8,2]{1,0}, u8[0]{0}) all-reduce-start(%fusion.1), to_apply=%fused, \
metadata={op_name="jit(step)/gradients/psum"}
  %while.1 = (s32[], f32[8,2]{1,0}) while(%reduce.1), condition=%condition, body=%body, \
metadata={op_name="jit(step)/roi_align/while"}, \
backend_config={"known_trip_count":{"n":"25"},"other":1}
  %while.2 = (s32[], f32[8,2]{1,0}) while(%while.1), condition=%condition, body=%body, \
metadata={op_name="jit(step)/vmap(nms)/while"}
  ROOT %element.2 = f32[8,2]{1,0} get-tuple-element(%while.2), index=1
}
"""


def test_lines_are_taken_apart():
    program = hlo.parse(TEXT)
    assert program.entry == "main"
    fusion = program.instructions["fusion.1"]
    assert (fusion.opcode, fusion.operands, fusion.called) == ("fusion", ("a", "b"), ("fused",))
    assert (fusion.shape, fusion.dtype, fusion.bytes) == ("f32[8,2]", "f32", 64)
    reduce = program.instructions["reduce.1"]
    assert (reduce.shape, reduce.bytes) == ("f32[8,2]", 64)
    assert [i.name for i in program.operands(fusion)] == ["a", "b"]
    assert program.instructions["gather.1"].custom_call == "x"
    assert program.instructions["while.1"].trip_count == 25
    assert program.instructions["while.2"].trip_count is None
    assert program.instructions["less.1"].bytes == 1


def test_the_schedule_enters_loops_once_and_no_fusion():
    found = [(i.name, depth) for i, depth in hlo.parse(TEXT).scheduled()]
    assert ("gather.1", 1) in found
    assert ("fusion.1", 0) in found
    assert "dot.1" not in dict(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("op_name", "owner"),
    [
        ("jit(step)/jvp(M.losses)/M.features/fpn/fpn._conv/lateral5/dot_general", "fpn/lateral5"),
        ("jit(step)/transpose(jvp(M.losses))/roi_align/while/body/add", "roi_align"),
        ("jit(step)/vmap(nms)/while", "nms"),
        ("jit(step)/roi_align/eval_jaxpr/while", "roi_align"),
        ("jit(step)/shard_map/gradients/psum", "gradients"),
        ("jit(step)/add", "add"),
        ("", ""),
    ],
)
def test_operations_belong_to_modules(op_name, owner):
    assert hlo.owner(op_name) == owner


def test_a_report_counts_what_the_program_does():
    program = hlo.parse(TEXT)

    some = jax.jit(lambda x: x @ x).lower(jnp.zeros((4, 4))).compile()
    found = report.contents(some, program)
    assert found["flops"] == 128
    assert found["kernels"] == 4  # two fusions, the collective, the loop's custom call
    loops = [(loop.owner, loop.trips, loop.depth) for loop in found["loops"]]
    assert loops == [("roi_align", 25, 0), ("nms", None, 0)]
    assert found["collectives"] == (report.Item("all-reduce", "gradients", 1, 64),)
    assert found["products"] == 1
    assert found["float32_products"] == (report.Item("dot", "fpn/lateral5", 1, 64),)
    assert found["moves"] == (report.Item("bf16[1024,1024]", "head", 1, 2**21),)
    assert found["buffers"][0] == report.Item("bf16[1024,1024]", "head", 1, 2**21)


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("HloModule empty\n")


def test_a_real_program_is_read():
    """Three iterations of a product in a named scope, as XLA compiles them for the local CPU."""

    @jax.named_scope("rounds")
    def rounds(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x)

    compiled = jax.jit(rounds).lower(jnp.zeros((8, 8)), jnp.zeros((8, 8))).compile()
    found = report.contents(compiled, hlo.parse(compiled.as_text()))
    assert [(loop.owner, loop.trips) for loop in found["loops"]] == [("rounds", 3)]
    assert found["products"] == 1
    assert sum(item.count for item in found["float32_products"]) == 1
    assert found["memory"].arguments == 2 * 8 * 8 * 4
