"""Compiles every full-size recipe for an H100 and compares with benchmarks/results. Takes an hour.

pytest -m "aot and nightly"                # needs: pip install -e '.[aot,tpu]'
"""

import importlib.metadata
import json

import pytest

from benchmarks import machine, programs
from tests.aot.test_accelerators import differences

pytestmark = [pytest.mark.aot, pytest.mark.nightly]

COMPARED = ("kernels", "float32_products", "loops_of_unknown_length")


CASES = [
    (recipe, what)
    for recipe in sorted(programs.groups())
    for what in programs.programs_of(programs.config_of(recipe))
]


@pytest.mark.parametrize(("recipe", "what"), CASES)
def test_a_recipe_compiles_as_it_did(recipe, what):
    found = programs.piece(recipe, what, "bfloat16", "h100")
    assert found["status"] == "compiles", found
    stored = machine.RESULTS / f"programs_{importlib.metadata.version('jaxlib')}.json"
    if not stored.exists():
        return  # with a newer jaxlib it only has to compile
    before = json.loads(stored.read_text())["pieces"][f"{recipe}/{what}/bfloat16/h100"]
    wanted = {name: before[name] for name in COMPARED}
    temporaries = {"temporaries": before["temporaries_gib"], "largest_buffers": {}}
    found |= {"temporaries": found["temporaries_gib"], "largest_buffers": {}}
    different = differences(found, wanted | temporaries)
    assert not different, "\n".join([recipe, what, *different])
