"""The comparison of counts in `test_accelerators`, without a compiler."""

from tests.aot.test_accelerators import differences

STORED = {
    "kernels": 100,
    "temporaries": 1000,
    "float32_products": {"mask_targets": 2},
    "loops_of_unknown_length": {"nms": 1},
    "largest_buffers": {"f32[8] fpn": 1},
}


def test_what_is_within_the_tolerances_is_the_same():
    assert not differences(STORED | {"kernels": 103, "temporaries": 901}, STORED)


def test_a_difference_is_told_by_module():
    found = STORED | {
        "kernels": 104,
        "temporaries": 1200,
        "float32_products": {"mask_targets": 2, "fpn/lateral5": 3},
        "loops_of_unknown_length": {},
        "largest_buffers": {"f32[8] fpn": 1, "f32[99] semantic_head": 1},
    }
    assert differences(found, STORED) == [
        "kernels: 100 stored, 104 found, +4.0%",
        "temporaries: 1000 stored, 1200 found, +20.0%",
        "float32_products of fpn/lateral5: 0 stored, 3 found",
        "loops_of_unknown_length of nms: 1 stored, 0 found",
        "among the largest buffers now: f32[99] semantic_head",
    ]
