"""Triton's kernels against dense float64, as JSON on stdout; run by Triton's interpreter (TRITON_INTERPRET=1) or, with `cuda`, by a GPU."""

import json
import sys

import torch

from sae.kernels import products, triton
from sae.kernels.features import decode_features, encode_relu, encode_topk
from sae.kernels.sparse import SparseFeatures, feature_sums


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def product_errors(batch, d_sae, d_in, device):
    generator = torch.Generator().manual_seed(d_sae)
    pre, W_dec, left = (torch.randn(shape, generator=generator).to(device) for shape in ((batch, d_sae), (d_sae, d_in), (batch, d_in)))
    pre[1] = -1.0  # a row in which nothing fires
    pointers, ids, values = triton.positive_entries(pre - 1)
    expected = SparseFeatures.from_dense((pre - 1).relu())
    rows = expected.row_ids
    same = torch.equal(pointers, expected.row_pointers) and torch.equal(ids, expected.feature_ids) and torch.equal(values, expected.values)
    return {
        "compaction": 0.0 if same else 1.0,
        "decode": relative(triton.sparse_dense_product(pointers, ids, values, W_dec), (pre - 1).relu().double() @ W_dec.double()),
        "sampled": relative(triton.sampled_product(pointers, rows, ids, left, W_dec), (left.double() @ W_dec.double().t())[rows.long(), ids.long()]),
    }


def gradient_errors(architecture, dtype, device):
    generator = torch.Generator().manual_seed(1)
    shapes = {"x": (8, 24), "center": (24,), "W_enc": (24, 64), "W_dec": (64, 24)}
    leaves = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    pre = (leaves["x"] - leaves["center"]) @ leaves["W_enc"]
    leaves["b_enc"] = -pre.quantile(0.9, dim=0)

    def plain(x, center, W_enc, b_enc):
        dense = (x - center) @ W_enc + b_enc
        return dense.relu() if architecture == "relu" else torch.zeros_like(dense).scatter(1, dense.topk(4).indices, dense.topk(4).values.relu())

    def sparse(x, center, W_enc, b_enc):
        return encode_relu(x, center, W_enc, b_enc, dtype) if architecture == "relu" else encode_topk(x, center, W_enc, b_enc, 4, dtype)

    gradients = []
    for encode, precision in ((plain, torch.float64), (sparse, torch.float32)):
        own = {name: leaf.to(precision).requires_grad_() for name, leaf in leaves.items()}
        features = encode(own["x"], own["center"], own["W_enc"], own["b_enc"])
        reconstruction = decode_features(features, own["W_dec"]) + own["center"]
        ((own["x"] - reconstruction).square().mean(1).sum() + 0.01 * feature_sums(features).sum()).backward()
        gradients.append({name: leaf.grad for name, leaf in own.items()})
    return {f"{architecture}/{dtype}/{name}": relative(gradients[1][name], gradients[0][name]) for name in leaves}


def main(device):
    products._kernels = lambda tensor: triton
    errors = {}
    for sizes in ((4, 100, 48), (2, 1100, 520)):
        errors |= {f"{name} at {sizes}": error for name, error in product_errors(*sizes, device).items()}
    errors |= gradient_errors("relu", torch.float32, device) | gradient_errors("topk", torch.bfloat16, device)
    print(json.dumps(errors))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["cpu"]))
