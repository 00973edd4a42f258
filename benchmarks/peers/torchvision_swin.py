"""Makes the golden file of torchvision's Swin-T: samples of its four feature maps.

    python -m benchmarks.peers.torchvision_swin

`tests/support/golden_recipe.py` draws the weights by name. The images are normal noise from numpy's
legacy generator. They are zero-padded to multiples of 4, because torchvision drops the last pixels
of other sizes. `tests/nn/test_swin.py` reads the file.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from tests.support import golden_recipe as recipe

# At 64 x 128 one window covers the full height of stage 2, whose width is still shifted.
SIZES = ((64, 128), (61, 83))
SAMPLES = 400
STAGES = (1, 3, 5, 7)  # indices in `features`; patch embedding and mergings are in between


@torch.no_grad()
def maps(model: torch.nn.Module, image: np.ndarray) -> list[np.ndarray]:
    """Returns the four stages' maps [h, w, C] of an image [H, W, 3]."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % 4), (0, -width % 4), (0, 0)))
    x = torch.from_numpy(padded)[None].permute(0, 3, 1, 2)
    outputs = [x := layer(x) for layer in model.features]
    return [outputs[stage][0].numpy() for stage in STAGES]


def sampled(feature: np.ndarray) -> dict[str, Any]:
    """Returns a map's shape, rms, sum and evenly spaced values."""
    step = max(1, feature.size // SAMPLES) | 1  # an odd step visits all channels
    return {
        "shape": np.array(feature.shape),
        "rms": np.sqrt(np.square(feature, dtype=np.float64).mean()),
        "sum": feature.sum(dtype=np.float64),
        "values": feature.ravel()[::step],
    }


def main() -> None:
    """Writes OUT/tv_swin_t.npz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("tests/goldens/backbones"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = torchvision.models.swin_t().eval()
    state = model.state_dict()
    manifest = {n: list(x.shape) for n, x in state.items() if x.is_floating_point()}
    weights = recipe.state_dict(manifest, args.seed)
    model.load_state_dict(state | {name: torch.from_numpy(x) for name, x in weights.items()})
    arrays: dict[str, Any] = {}
    for height, width in SIZES:
        image = np.random.RandomState(args.seed + height).standard_normal((height, width, 3))
        for stage, feature in enumerate(maps(model, image.astype(np.float32))):
            found = sampled(feature)
            print(f"{height} x {width}, stage {stage}: {feature.shape}, rms {found['rms']:.3f}")
            arrays |= {f"{height}x{width}/{stage}/{k}": v for k, v in found.items()}
    meta = {
        "source": f"torchvision {torchvision.__version__.split('+')[0]}",
        "seed": args.seed,
        "sizes": SIZES,
        "manifest": {name: list(x.shape) for name, x in state.items()},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out / "tv_swin_t.npz", meta=json.dumps(meta), **arrays)


if __name__ == "__main__":
    main()
