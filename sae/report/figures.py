"""Names of the report's numbers: meaning in a line, formula, source, and the place in a run directory."""

from dataclasses import dataclass

NEURON_TO_GRAPH = "Foote et al. 2023, Neuron to Graph (arXiv 2305.19911), there with half the maximum as threshold on both sides"


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: what it is called.
        path: where the evaluation report holds it.
        style: "share" (shown in per cent), "fixed" (three decimals), "short" (two decimals, none from 100 on).
        says: what it tells, in a line.
        formula: how it is computed, in plain text.
        source: where it comes from, if it is not our own.
    """

    name: str
    path: str
    style: str
    says: str
    formula: str = ""
    source: str = ""


SPARSITY = "How sparse the features are"
GROUPS: dict[str, tuple[Figure, ...]] = {
    "What the model's predictions lose": (
        Figure(
            "Loss recovered, zero ablation",
            "loss_recovered_zero",
            "share",
            "Of the loss that zeroing the activation causes, the share that the reconstruction in its place avoids.",
            "(CE_zero − CE_spliced) / (CE_zero − CE_clean), cross-entropies over all predictions; interval: bootstrap over sequences",
            source="Bricken et al. 2023, Towards Monosemanticity",
        ),
        Figure(
            "Loss recovered, mean ablation",
            "loss_recovered_mean",
            "share",
            "The same against putting the mean activation in its place. Which of the two ablations costs more depends on model and hookpoint.",
            "(CE_mean − CE_spliced) / (CE_mean − CE_clean); interval: bootstrap over sequences",
        ),
        Figure(
            "KL divergence",
            "kl_divergence.mean",
            "fixed",
            "How far the next-token distribution moves, in nats per prediction.",
            "mean of sum_v p_clean(v) (log p_clean(v) − log p_spliced(v))",
            source="Karvonen et al. 2025, SAEBench (arXiv 2503.09532), core",
        ),
        Figure(
            "Top-1 agreement",
            "top1_agreement",
            "share",
            "Predictions whose likeliest token stays the same.",
            "mean of [argmax p_spliced = argmax p_clean]",
        ),
        Figure(
            "KL divergence, 99th percentile",
            "kl_divergence.quantiles.p99",
            "fixed",
            "What one prediction in a hundred exceeds, in nats.",
            "99 % quantile over predictions of KL(clean ‖ spliced)",
        ),
        Figure(
            "Share of KL in the worst 1 %",
            "worst_percent.share_of_kl",
            "share",
            "How much of all change falls on the hundredth of predictions that change most; 1 % if the damage were even.",
            "sum of KL over the 1 % of predictions with the largest KL / sum over all",
        ),
        Figure(
            "Loss increase in the worst 1 %",
            "worst_percent.loss_increase",
            "fixed",
            "What the reconstruction costs there, in nats per prediction.",
            "mean of CE_spliced − CE_clean over those predictions",
        ),
    ),
    "How close the reconstruction is": (
        Figure(
            "FVU",
            "fvu",
            "fixed",
            "Fraction of the activations' variance that the reconstruction leaves unexplained.",
            "sum‖x − x̂‖² / sum‖x − mean‖², both sums over all held-out tokens",
            source="Gao et al. 2024 (arXiv 2406.04093), normalised error; one minus it is the explained variance, taken over the whole set",
        ),
        Figure(
            "Reconstruction bias",
            "reconstruction_bias",
            "fixed",
            "1 is unbiased; below, a longer reconstruction would be closer.",
            "mean ‖x̂‖² / mean (x · x̂)",
            source="Rajamanoharan et al. 2024 (arXiv 2404.16014), eq. 10; SAEBench",
        ),
        Figure("Cosine", "cosine", "fixed", "Mean cosine of activation and reconstruction.", "mean of x·x̂ / (‖x‖ ‖x̂‖)"),
        Figure(
            "Norm ratio",
            "norm_ratio",
            "fixed",
            "Below 1 the reconstruction is shorter than the activation (shrinkage).",
            "sqrt(sum‖x̂‖² / sum‖x‖²)",
            source="Rajamanoharan et al. 2024 (arXiv 2404.16014), shrinkage",
        ),
    ),
    SPARSITY: (
        Figure(
            "L0",
            "l0",
            "short",
            "Features that fire on a token, on average.",
            "mean over tokens of #{i : f_i(x) ≠ 0}",
            source="Bricken et al. 2023, Towards Monosemanticity",
        ),
        Figure(
            "Dead",
            "dead_fraction",
            "share",
            "Features that did not fire on any of the last vectors of the training; the window's length is under Origin.",
            "#{i : silent for the window} / d_sae",
            source="Bricken et al. 2023, Towards Monosemanticity, resampling",
        ),
        Figure(
            "Silent on held-out text",
            "silent_fraction",
            "share",
            "Features that fire on none of the held-out tokens: the dead ones, and those too rare for this much text.",
            "#{i : density_i = 0} / d_sae",
        ),
        Figure(
            "Ultra-low density",
            "ultra_low_density_fraction",
            "share",
            "Features that fire on less than one token in a million; unknown where fewer tokens were measured.",
            "#{i : 0 < density_i < 1e-6} / d_sae",
            source="Bricken et al. 2023, Towards Monosemanticity, feature density",
        ),
        Figure(
            "Dense",
            "share_above_10_percent",
            "share",
            "Features that fire on more than a tenth of all tokens.",
            "#{i : density_i > 0.1} / d_sae",
        ),
    ),
}
ULTRA_LOW = Figure(
    "Ultra-low-density cluster",
    "density_clusters.ultra_low.num_features",
    "share",
    "Features that stand apart from the others by how seldom they fire and by their weights; none where the densities have one mode.",
    "of two normal distributions fitted to log10 density, encoder bias and cosine of encoder and decoder vector the one of lower mean density; "
    "it counts if BIC prefers two to one and the means are a decade apart",
    source="Bricken et al. 2023, Towards Monosemanticity, appendix on feature density",
)
OF_CLUSTERS = (
    Figure("Median density in the cluster", "median_density", "fixed", "Below it that of the other features.", "median over features"),
    Figure("Median encoder bias in the cluster", "median_encoder_bias", "fixed", "Below it that of the other features.", "median, scaled units"),
    Figure(
        "Median encoder–decoder cosine in the cluster",
        "median_encoder_decoder_cosine",
        "fixed",
        "Below it that of the other features.",
        "median of W_enc,i · W_dec,i / (‖W_enc,i‖ ‖W_dec,i‖)",
    ),
)
LOSSES = (
    Figure("Clean", "cross_entropy.clean", "fixed", "Cross-entropy of the untouched model, nats per prediction.", "−log p(next token), mean"),
    Figure("Reconstruction spliced in", "cross_entropy.spliced", "fixed", "With the reconstruction in the activation's place."),
    Figure("Mean ablated", "cross_entropy.mean_ablated", "fixed", "With the mean activation of the store in its place."),
    Figure("Zero ablated", "cross_entropy.zero_ablated", "fixed", "With zeros in its place."),
    Figure("Perplexity, clean", "perplexity.clean", "short", "exp of the clean cross-entropy.", "exp(CE_clean)"),
    Figure("Perplexity, spliced", "perplexity.spliced", "short", "exp of the cross-entropy with the reconstruction.", "exp(CE_spliced)"),
)
EXPLAINED = Figure(
    "Explanation score, median",
    "",
    "fixed",
    "How well the explanation predicts a feature's activations on held-out text: 0 not at all, 1 in their order exactly.",
    "Spearman correlation of predicted and true activations on the scoring examples; median over scored features; interval: bootstrap over features",
    source="Bricken et al. 2023, Towards Monosemanticity, automated interpretability",
)
HELD_OUT = (
    Figure(
        "Precision of firing",
        "firing_precision",
        "fixed",
        "Of the held-out tokens that the explanation says fire, the share that does.",
        "TP / (TP + FP); it says so where it predicts at least half of the feature's mean activation when it fires",
        source=NEURON_TO_GRAPH,
    ),
    Figure(
        "Recall of firing",
        "firing_recall",
        "fixed",
        "Of the held-out tokens that fire at all, the share it says so of.",
        "TP / (TP + FN)",
        source=NEURON_TO_GRAPH,
    ),
    Figure("F1 of firing", "firing_f1", "fixed", "Both in one number.", "2 TP / (2 TP + FP + FN)", source=NEURON_TO_GRAPH),
    Figure(
        "Variance explained by the explanation",
        "variance_explained",
        "fixed",
        "How much of a feature's activation over all held-out tokens its explanation foretells; below 0 its mean would foretell more.",
        "1 − sum (a − predicted)² / sum (a − mean)²",
        source="Foote et al. 2023, Neuron to Graph (arXiv 2305.19911)",
    ),
    Figure(
        "Pearson over all tokens",
        "score_all_tokens",
        "fixed",
        "Agreement with the raw activation of every held-out token, nearly all of which are 0.",
        "Pearson correlation of predicted and true activations; 0 where either is constant",
    ),
    Figure(
        "Spearman over all tokens",
        "spearman_all_tokens",
        "fixed",
        "The same of their ranks, ties sharing theirs.",
        "Spearman correlation of predicted and true activations; 0 where either is constant",
    ),
    Figure(
        "Score on hard negatives",
        "score_hard",
        "fixed",
        "The explanation score where what does not fire looks as if it might.",
        "Spearman on the examples that fire and those at which a co-firing or similar feature fires strongly and this one does not",
    ),
)
NEIGHBOURS = (
    Figure(
        "Co-firing, phi",
        "co_firing",
        "fixed",
        "Which features fire on the same tokens: 1 always together, 0 as chance would have it.",
        "(N n_ij − n_i n_j) / sqrt(n_i (N − n_i) n_j (N − n_j)); N tokens of the explanation text, n_i, n_j, n_ij with the one, the other, both",
    ),
    Figure("Similar, cosine", "similar", "fixed", "Which features write in nearly the same direction.", "W_dec,i · W_dec,j / (‖W_dec,i‖ ‖W_dec,j‖)"),
)
