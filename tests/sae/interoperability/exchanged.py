"""Dictionaries with weights as training leaves them, of every architecture that another library can hold."""

import torch
from pydantic import TypeAdapter

from sae.architectures.base import Dictionary
from sae.architectures.config import SAEConfig
from sae.architectures.registry import build_dictionary
from sae.interoperability.raw_form import RULES

WIDTH, FEATURES, K = 16, 64, 5
EXPORTABLE = {
    "saelens": list(RULES),
    "dictionary_learning": list(RULES),
    "sparsify": [name for name, rule in RULES.items() if rule == "topk"],
}
TOP_K = {"topk", "batch_topk", "matryoshka"}


def planted(architecture: str, d_out: int | None = None) -> Dictionary:
    """A dictionary whose weights, biases and scales are all its own; only what its architecture promises (unit rows, ties) holds."""
    draw = torch.Generator().manual_seed(3)
    values = {"architecture": architecture, "d_sae": FEATURES} | ({"k": K} if architecture in TOP_K else {})
    dictionary = build_dictionary(TypeAdapter(SAEConfig).validate_python(values), WIDTH, d_out)
    with torch.no_grad():
        dictionary.initialize(torch.randn(dictionary.d_out, generator=draw), draw)
        for parameter in dictionary.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=draw))
        dictionary.after_step()
        dictionary.input_scale.fill_(0.37)
        if dictionary.output_scale is not None:
            dictionary.output_scale.fill_(2.6)
        if "threshold" in dict(dictionary.named_buffers()):
            dictionary.threshold.fill_(0.4)
    return dictionary.eval()
