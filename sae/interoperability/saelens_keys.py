"""Configuration keys of SAELens, from its first release to 6.54: what each means for the dictionary.

Read from the configuration classes of sae_lens 1.0 to 6.54.12. Before 2.1 `cfg.json` is the configuration of the whole training.
"""

from sae.interoperability.configuration_keys import Bound, KeyList, names

REMOVE = "To encode activations that you computed yourself, remove the key"
NORMALIZATION = Bound(
    ("none", None, False),
    "The file does not hold the factor of 'expected_average_only_in' (fold it in with `fold_activation_norm_scaling_factor` and save again); "
    "the other kinds are computed anew for each input and have no counterpart here",
)
HEAD = Bound((None,), f"The dictionary is of one attention head, and hookpoints here hold all heads side by side. {REMOVE}")

# How an instance of the library's model was asked for. Present values other than these change the activations that the dictionary is of.
MODEL_ARGUMENTS = KeyList(
    honoured=frozenset(),
    without_effect=frozenset({"device", "n_devices", "move_to_device", "trust_remote_code", "local_files_only", "cache_dir", "low_cpu_mem_usage"}),
    bound={
        key: Bound((False, None), f"The dictionary is of a model with processed weights, and models here run as they are published. {REMOVE}")
        for key in ("center_writing_weights", "fold_ln", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices")
    },
    noted=frozenset({"dtype", "torch_dtype", "revision", "checkpoint_index", "checkpoint_value", "default_padding_side", "attn_implementation"}),
)

# What the dictionary is of. Release 6 keeps these in `metadata`, older ones keep them at the top level.
ORIGIN = frozenset({"hook_name", "hook_layer", "hook_name_out", "hook_layer_out", "model_name", "model_class_name", "context_size"})
ORIGIN |= {"sae_lens_version", "model_from_pretrained_kwargs"}
ORIGIN_BOUND = {
    "hook_head_index": HEAD,
    "hook_head_index_out": HEAD,
    "model_kwargs": Bound(({}, None), f"Such arguments of the model's forward pass may change its activations. {REMOVE}"),
}
NOTED = frozenset({"dataset_path", "prepend_bos", "exclude_special_tokens", "seqpos_slice", "neuronpedia_id", "sae_lens_training_version"})
NOTED |= {"hf_hook_name", "hf_hook_name_out", "use_chat_formatting", "sequence_separator_token", "disable_concat_sequences"}

TRAINING = names(
    """
    act_store_device activations_mixing_fraction adam_beta1 adam_beta2 autocast autocast_lm aux_loss_coefficient b_dec_init_method
    cached_activations_path checkpoint_path compile_llm compile_sae dataset_trust_remote_code dead_feature_threshold dead_feature_window
    decoder_heuristic_init decoder_heuristic_init_norm decoder_init_norm decoder_orthogonal_init device eval_batch_size_prompts
    eval_every_n_wandb_logs expansion_factor feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path hook_eval
    hook_point_eval init_encoder_as_decoder_transpose is_dataset_tokenized jumprelu_bandwidth jumprelu_init_threshold
    jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient l1_warm_up_steps
    llm_compilation_mode llm_device log_activations_store_to_wandb log_optimizer_state_to_wandb log_to_wandb log_weights_to_wandb logger
    lp_norm lr lr_decay_steps lr_end lr_scheduler_name lr_warm_up_steps mse_loss_normalization n_batches_for_norm_estimate
    n_batches_in_buffer n_checkpoints n_eval_batches n_restart_cycles noise_scale normalize_sae_decoder output_path
    pre_act_loss_coefficient prefetch_llm_batches resume resume_from_checkpoint run_name sae_compilation_mode
    save_final_checkpoint scale_sparsity_penalty_by_decoder_norm seed store_batch_size store_batch_size_prompts streaming target_l0
    tokens_per_buffer train_batch_size train_batch_size_tokens training_tokens use_cached_activations use_ghost_grads
    use_sparse_activations verbose wandb_entity wandb_id wandb_log_frequency wandb_project
    """
)
_COMPUTED = frozenset({"architecture", "d_in", "d_sae", "d_out", "k", "rescale_acts_by_decoder_norm", "apply_b_dec_to_input", "dtype", "metadata"})
_BOUND = {
    "normalize_activations": NORMALIZATION,
    # Both put heads side by side, which is how they come here.
    "reshape_activations": Bound(("none", "hook_z", None), "No other arrangement of the input is known here"),
    **ORIGIN_BOUND,
}

VERSION_6 = KeyList(honoured=_COMPUTED | ORIGIN | {"finetuning_scaling_factor"}, without_effect=TRAINING, bound=_BOUND, noted=NOTED)
OLDER = KeyList(honoured=VERSION_6.honoured | {"activation_fn", "activation_fn_kwargs"}, without_effect=TRAINING, bound=_BOUND, noted=NOTED)
