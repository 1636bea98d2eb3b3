# %% [markdown]
# # Reading a run
#
# A tutorial on the run that `make quickstart` leaves in `runs/quickstart`. Editors with notebooks (VS Code, Jupyter with Jupytext) open this
# file as one; `python examples/tutorial.py` runs it from the first cell to the last.

# %%
import torch

import sae
from sae.interpretation.text.vocabulary import read_vocabulary

run = sae.Run("runs/quickstart")
print(run)

# %% [markdown]
# ## Did the training go well?
#
# FVU is the share of variance that the reconstruction misses. Loss recovered says how much of the model's loss comes back when the
# reconstruction replaces the activation. `None` means that a figure is not defined for this model; `not_defined` gives the reason.

# %%
for name, dictionary in run.dictionaries.items():
    measured = dictionary.evaluation
    print(f"{name}: L0 {measured.l0:.1f}, FVU {measured.fvu}, loss recovered {measured.loss_recovered_zero} {measured.loss_recovered_zero_interval}")

# %%
for row in run.dictionaries["topk"].log[:: max(1, len(run.dictionaries["topk"].log) // 5)]:
    print(f"step {row['step']}: FVU {row['fvu']:.3f}, L0 {row['l0']:.1f}, dead {row['dead_fraction']:.1%}")

# %% [markdown]
# ## Which features are explained best?
#
# The score is the rank correlation of predicted and true activations on held-out text. Features that fire on a single token are easy to
# explain. Look at the others first, and compare with the neurons before you conclude anything.

# %%
features = run.features("topk").to_pandas()
columns = ["feature", "density", "score_spearman", "explanation"]
print(features[~features.single_token].nlargest(5, "score_spearman")[columns].to_string(index=False))
print("median score:", features.score_spearman.median(), "neurons:", run.features("neurons").to_pandas().score_spearman.median())

# %% [markdown]
# ## What does one feature respond to?
#
# Its strongest examples; `»` marks the token on which it fires most.

# %%
texts = read_vocabulary(run.place.child("interpretation"))
chosen = int(features.sort_values("score_spearman").feature.iloc[-1])
examples = run.examples("topk", [chosen]).to_pandas()
for example in examples[examples.kind == "top"].head(5).itertuples():
    line = texts.line(list(example.tokens))
    print("".join(line[: example.peak]) + "»" + "".join(line[example.peak :]))

# %% [markdown]
# ## Use the dictionary
#
# Rows of the store go in as they are: a dictionary scales and centres its input itself.

# %%
dictionary = run.dictionaries["topk"].load()
rows = torch.cat([piece.float() for piece in run.store.pieces(dictionary.hookpoint, shard=0, start=0, stop=100)])
features_of_rows = dictionary.encode(rows)
print(dictionary, features_of_rows.shape, "features a token:", (features_of_rows > 0).sum(dim=1).float().mean().item())

# %% [markdown]
# Next: train a dictionary on this store with other settings (`monosem train -c sweep store=runs/quickstart/store`), or on tensors of your own
# (`examples/train_on_tensors.py`).
