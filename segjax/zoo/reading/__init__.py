"""Checkpoints of other libraries, read without importing or running anything that they name.

    checkpoint = read_checkpoint("model_final_f10217.pkl")
    checkpoint.tensors["backbone.fpn_lateral2.weight"]

`machine` executes pickles with a table of the names that checkpoints need; `arrays` and
`torch_tensors` define these names. `torch_files`, `safetensors` and `archives` read the file
formats, `state` finds the tensors in their contents, and `files` recognises the format.
"""

from segjax.zoo.reading.files import read_checkpoint as read_checkpoint
from segjax.zoo.reading.state import Checkpoint as Checkpoint
from segjax.zoo.reading.untrusted import UnsafeFileError as UnsafeFileError
