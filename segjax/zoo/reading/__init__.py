"""Checkpoints of other libraries, read as numbers: nothing that a file names is imported or run.

    checkpoint = read_checkpoint("model_final_f10217.pkl")
    checkpoint.tensors["backbone.fpn_lateral2.weight"]

`machine` executes pickles by a table of what checkpoints need, `arrays` and `torch_tensors` say
what the few names in that table mean, `torch_files`, `safetensors` and `archives` know the forms
of files, `state` finds the tensors among the rest, and `files` tells the forms apart.
"""

from segjax.zoo.reading.files import read_checkpoint as read_checkpoint
from segjax.zoo.reading.state import Checkpoint as Checkpoint
from segjax.zoo.reading.untrusted import UnsafeFileError as UnsafeFileError
