"""Every published formula written out densely: what fires, what is reconstructed, what it costs. No kernel of the library is used here.

Each takes a dictionary (for its weights and configuration), scaled activations, scaled targets and the dead features, and gives
features, reconstruction and loss. Straight-through gradients are written as terms that are zero and have the published derivative.
"""

import torch


def center_of(dictionary):
    """What a published encoder subtracts first."""
    without = ("relu_april", "tied", "jumprelu")
    return 0 if dictionary.is_transcoder or dictionary.architecture in without else dictionary.b_dec


def pre_activations(dictionary, x):
    return (x - center_of(dictionary)) @ dictionary.W_enc + dictionary.b_enc


def mean_over_batch(x, reconstruction):
    return ((x - reconstruction) ** 2).sum(1).mean()


def normalized(target, guess):
    return ((target - guess) ** 2).sum() / ((target - target.mean(0)) ** 2).sum()


def keep_largest(values, k):
    kept = values.topk(min(k, values.shape[1]), dim=1)
    return torch.zeros_like(values).scatter(1, kept.indices, kept.values.relu())


def relu(dictionary, x, target, dead):
    """Towards Monosemanticity: mean over elements of the squared error, sum over features of the L1 term, mean over the batch."""
    f = torch.relu(pre_activations(dictionary, x))
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    loss = ((target - reconstruction) ** 2).mean() + dictionary.config.l1_coefficient * f.sum(1).mean()
    return f, reconstruction, loss


def relu_april(dictionary, x, target, dead):
    """April 2024: sum over elements, and each feature weighted by the norm of its direction."""
    f = torch.relu(x @ dictionary.W_enc + dictionary.b_enc)
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    penalty = (f * dictionary.W_dec.norm(dim=1)).sum(1).mean()
    return f, reconstruction, mean_over_batch(target, reconstruction) + dictionary.config.l1_coefficient * penalty


def tied(dictionary, x, target, dead):
    """Cunningham et al.: c = ReLU(M x + b), x̂ = Mᵀ c with the rows of M normalised; both terms are means."""
    directions = dictionary.M / dictionary.M.norm(dim=1, keepdim=True)
    f = torch.relu(x @ directions.T + dictionary.b_enc)
    reconstruction = f @ directions
    return f, reconstruction, ((target - reconstruction) ** 2).mean() + dictionary.config.l1_coefficient * f.norm(1, dim=-1).mean()


def p_annealing(dictionary, x, target, dead):
    """Karvonen et al.: on activations of norm 1, squared error and λ Σ f^p, with p and λ as annealing has left them."""
    config, unit = dictionary.config, dictionary.d_in**0.5
    p = torch.linspace(1, config.p_end, config.num_changes, dtype=x.dtype)[int(dictionary.changes) - 1].item()
    f = torch.relu(pre_activations(dictionary, x))
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    fired = f[f > 0] / unit
    penalty = config.l1_coefficient * dictionary.factor * (fired**p).sum() / len(x)
    return f, reconstruction, mean_over_batch(target / target.shape[1] ** 0.5, reconstruction / target.shape[1] ** 0.5) + penalty


def gated(dictionary, x, target, dead):
    """Rajamanoharan et al.: gate and magnitude share W_enc; the gate's own reconstruction sees the decoder as a constant."""
    product = (x - center_of(dictionary)) @ dictionary.W_enc
    gate = product + dictionary.b_gate
    f = (gate > 0) * torch.relu(dictionary.r_mag.exp() * product + dictionary.b_mag)
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    by_gate = torch.relu(gate) @ dictionary.W_dec.detach() + dictionary.b_dec.detach()
    units = target.shape[1]
    loss = mean_over_batch(target, reconstruction) / units + mean_over_batch(target, by_gate) / units
    return f, reconstruction, loss + dictionary.config.l1_coefficient * torch.relu(gate / dictionary.d_in**0.5).sum(1).mean()


def auxiliary(dictionary, x, error, dead):
    """Gao et al.: dead features explain what the reconstruction left over."""
    if dead is None:
        return 0
    largest = keep_largest(pre_activations(dictionary, x).masked_fill(~dead, -torch.inf), min(dictionary.config.aux_k, int(dead.sum())))
    return dictionary.config.aux_coefficient * normalized(error.detach(), largest @ dictionary.W_dec)


def topk(dictionary, x, target, dead):
    """Gao et al.: TopK of the pre-activations."""
    f = keep_largest(pre_activations(dictionary, x), dictionary.config.k)
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    return f, reconstruction, normalized(target, reconstruction) + auxiliary(dictionary, x, target - reconstruction, dead)


def batch_topk(dictionary, x, target, dead):
    """Bussmann et al.: the k · batch largest of all."""
    pre = pre_activations(dictionary, x)
    f = keep_largest(pre.view(1, -1), dictionary.config.k * len(x)).view_as(pre)
    reconstruction = f @ dictionary.W_dec + dictionary.b_dec
    return f, reconstruction, normalized(target, reconstruction) + auxiliary(dictionary, x, target - reconstruction, dead)


def matryoshka(dictionary, x, target, dead):
    """Bussmann et al.: one decoding per prefix, the mean of their errors."""
    pre = pre_activations(dictionary, x)
    f = keep_largest(pre.view(1, -1), dictionary.config.k * len(x)).view_as(pre)
    ends = torch.tensor(dictionary.config.group_sizes).cumsum(0).tolist()
    prefixes = [f[:, :end] @ dictionary.W_dec[:end] + dictionary.b_dec for end in ends]
    loss = sum(normalized(target, prefix) for prefix in prefixes) / len(prefixes)
    return f, prefixes[-1], loss + auxiliary(dictionary, x, target - prefixes[-1], dead)


def jumprelu(dictionary, x, target, dead):
    """Rajamanoharan et al.: on activations of norm 1, squared error and λ L0, the threshold's gradient by a rectangle of width ε."""
    unit = dictionary.d_in**0.5
    z = (x @ dictionary.W_enc + dictionary.b_enc) / unit
    theta = dictionary.log_threshold.exp() / unit
    width = dictionary.config.bandwidth
    near = ((z - theta).abs() < width / 2).to(z.dtype).detach()
    moved = theta - theta.detach()  # zero, with the derivative of theta
    f = z * (z > theta) - theta.detach() / width * near * moved
    l0 = ((z > theta).to(z.dtype) - near / width * moved).sum(1)
    reconstruction = unit * f @ dictionary.W_dec + dictionary.b_dec
    loss = mean_over_batch(target, reconstruction) / target.shape[1] + dictionary.config.l0_coefficient * l0.mean()
    return unit * f, reconstruction, loss


FORMULAS = {
    "relu": relu,
    "relu_april": relu_april,
    "tied": tied,
    "p_annealing": p_annealing,
    "gated": gated,
    "topk": topk,
    "batch_topk": batch_topk,
    "matryoshka": matryoshka,
    "jumprelu": jumprelu,
}


def evaluated(dictionary, x):
    """Features and reconstruction of scaled activations in evaluation, where BatchTopK knows a threshold and no batch."""
    if dictionary.architecture not in ("batch_topk", "matryoshka"):
        return FORMULAS[dictionary.architecture](dictionary, x, x, None)[:2]
    pre = pre_activations(dictionary, x)
    f = pre * (pre > dictionary.threshold)
    return f, f @ dictionary.W_dec + dictionary.b_dec
