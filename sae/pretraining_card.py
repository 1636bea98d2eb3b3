"""README of a model that `monosem pretrain` trained, as a Hugging Face model card."""

import json
import math
from typing import Any


def model_card(result: dict[str, Any]) -> str:
    """The model's README: its shape, corpus, configuration and loss."""
    loss = result["validation_loss_nats"]
    shape = result["config"]["transformer"]
    return f"""---
license: mit
library_name: transformers
---
# A one-layer transformer to take apart

{shape["num_layers"]} layer, residual width {shape["d_model"]}, {shape["num_heads"]} heads, ReLU MLP of {shape["d_mlp"]},
byte-level BPE of {shape["vocab_size"]} tokens, context {result["config"]["corpus"]["context_length"]}: the subject model of
Towards Monosemanticity (Bricken et al. 2023), {result["parameters"]:,} parameters in float16.
It serves as an object of study; it writes no useful text.

Made by `monosem pretrain` with the configuration below.

| | |
|---|---|
| corpus | {", ".join(result["config"]["corpus"]["text"])}: {result["corpus_tokens"]:,} tokens, digest `{result["corpus_digest"][:16]}` |
| training tokens | {result["training_tokens"]:,} |
| loss on held-out text | {loss:.4f} nats per token (perplexity {math.exp(loss):.2f}) |

```json
{json.dumps(result["config"], indent=1)}
```
"""
