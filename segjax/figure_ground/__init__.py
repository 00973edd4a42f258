"""Figure-ground segmentation: bottom-up, top-down, and both combined; without Flax or weights."""

from segjax.figure_ground.bottom_up import BottomUp as BottomUp
from segjax.figure_ground.bottom_up import bottom_up as bottom_up
from segjax.figure_ground.bottom_up_merge import MergeCost as MergeCost
from segjax.figure_ground.bottom_up_seeds import Aggregation as Aggregation
from segjax.figure_ground.combined import CombineConfig as CombineConfig
from segjax.figure_ground.combined import Combined as Combined
from segjax.figure_ground.combined import combine as combine
from segjax.figure_ground.fragments import Fragments as Fragments
from segjax.figure_ground.fragments import TopDownConfig as TopDownConfig
from segjax.figure_ground.fragments_files import load_fragments as load_fragments
from segjax.figure_ground.fragments_files import save_fragments as save_fragments
from segjax.figure_ground.fragments_learn import learn_fragments as learn_fragments
from segjax.figure_ground.hierarchy import Hierarchy as Hierarchy
from segjax.figure_ground.refine import MaskRefinement as MaskRefinement
from segjax.figure_ground.refine import refine_masks as refine_masks
from segjax.figure_ground.top_down import TopDown as TopDown
from segjax.figure_ground.top_down import top_down as top_down
from segjax.figure_ground.weighted_aggregation import WeightedAggregation as WeightedAggregation
from segjax.figure_ground.weighted_aggregation import weighted_aggregation as weighted_aggregation
