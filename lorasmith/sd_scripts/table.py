"""The treatment of every argument of sd-scripts here: a setting, no effect, or a refusal.

An argument is in exactly one of the three tables. docs/sd-scripts.md is made from them
(`python -m lorasmith.ui.sd_scripts_page`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

from lorasmith.sd_scripts.arguments import OF_MUSUBI, Script


class Done(NamedTuple):
    """An argument that sets options of `train`."""

    options: tuple[str, ...]
    is_direct: bool = True  # the value is that of the option; else `translate` computes it
    note: str = ""  # code of a sentence about what is different, `sd_scripts.note.<code>`


class NoEffect(NamedTuple):
    """An argument that changes nothing here, which is shown once: the sentence `warning.<note>`."""

    note: str


class Refused(NamedTuple):
    """An argument that ends the start: the sentence `error.<reason>`."""

    reason: str


def sets(option: str, note: str = "") -> Done:
    """An argument with the meaning and the values of an option."""
    return Done((option,), note=note)


def makes(*options: str, note: str = "") -> Done:
    """An argument that `translate` turns into options."""
    return Done(options, is_direct=False, note=note)


DONE = {
    # -- model
    "pretrained_model_name_or_path": sets("base-model"),
    "vae": sets("vae"),
    "v_parameterization": makes("prediction", note="prediction_from_file"),
    "zero_terminal_snr": makes("zero-terminal-snr", note="snr_of_terminal"),
    "clip_skip": sets("clip-skip"),
    "mixed_precision": makes("precision", note="precision"),
    "gradient_checkpointing": sets("gradient-checkpointing"),
    "full_bf16": sets("full-bf16"),
    "fp8_base": makes("base-precision"),
    "torch_compile": makes("execution"),
    "fp8_base_unet": makes("base-precision", note="fp8_base_unet"),
    "dit": makes("base-model"),
    "text_encoder": makes("text-encoder"),
    "fp8_scaled": makes("base-precision"),
    "fp8_llm": makes("text-encoder-precision"),
    "fp8_text_encoder": makes("text-encoder-precision"),
    "compile": makes("execution"),
    "gradient_checkpointing_cpu_offload": makes("gradient-checkpointing"),
    "preserve_distribution_shape": makes("min-timestep", "max-timestep", note="distribution_shape"),
    "clip_l": makes("text-encoder"),
    "t5xxl": makes("text-encoder"),
    "qwen3": makes("text-encoder"),
    "ae": makes("vae"),
    "blocks_to_swap": makes("base-offload", note="blocks_to_swap"),
    "split_mode": makes("base-offload", note="split_mode"),
    "unsloth_offload_checkpointing": makes("gradient-checkpointing"),
    # -- pictures
    "train_data_dir": sets("data", note="loose_pictures"),
    "dataset_config": makes(note="dataset_config"),
    "reg_data_dir": sets("reg-data-dir"),
    "in_json": makes("in-json", note="in_json"),
    "dataset_repeats": makes(note="dataset_repeats"),
    "prior_loss_weight": sets("prior-loss-weight"),
    "resolution": makes("resolution", note="resolution"),
    "enable_bucket": sets("enable-bucket", note="enable_bucket"),
    "min_bucket_reso": sets("min-bucket-reso"),
    "max_bucket_reso": sets("max-bucket-reso"),
    "bucket_reso_steps": sets("bucket-step"),
    "bucket_no_upscale": sets("bucket-no-upscale"),
    "resize_interpolation": makes("resize-interpolation"),
    "flip_aug": sets("flip-aug"),
    "color_aug": sets("color-aug"),
    "random_crop": sets("random-crop"),
    "face_crop_aug_range": sets("face-crop-aug-range"),
    "masked_loss": sets("masked-loss"),
    "alpha_mask": sets("alpha-mask"),
    "conditioning_data_dir": sets("conditioning-data-dir"),
    # -- captions
    "caption_extension": makes("caption-extension"),
    "caption_extention": makes("caption-extension"),
    "caption_separator": sets("caption-separator"),
    "caption_prefix": sets("caption-prefix"),
    "caption_suffix": sets("caption-suffix"),
    "shuffle_caption": sets("shuffle-caption", note="captions"),
    "keep_tokens": sets("keep-tokens"),
    "keep_tokens_separator": sets("keep-tokens-separator"),
    "secondary_separator": sets("secondary-separator"),
    "enable_wildcard": sets("enable-wildcard"),
    "caption_dropout_rate": sets("caption-dropout-rate"),
    "caption_dropout_every_n_epochs": sets("caption-dropout-every-n-epochs"),
    "caption_tag_dropout_rate": sets("caption-tag-dropout-rate"),
    "token_warmup_min": sets("token-warmup-min"),
    "token_warmup_step": sets("token-warmup-step"),
    "max_token_length": sets("max-token-length"),
    "weighted_captions": sets("weighted-captions"),
    # -- adapter
    "network_module": makes("adapter", note="network_module"),
    "network_dim": makes("rank", note="network_dim"),
    "network_alpha": makes("alpha", note="network_alpha"),
    "network_dropout": makes("dropout"),
    "network_args": makes(
        *("conv-rank", "conv-alpha", "rank-dropout", "module-dropout", "block-rank", "block-lr", "loraplus-lr-ratio"),
        note="network_args",
    ),
    "network_weights": sets("init-from", note="network_weights"),
    "network_train_unet_only": makes("train-text-encoder", note="unet_only"),
    "network_train_text_encoder_only": makes("network-train-text-encoder-only"),
    "dim_from_weights": sets("dim-from-weights"),
    "base_weights": sets("base-weights"),
    "base_weights_multiplier": sets("base-weights-multiplier"),
    "scale_weight_norms": sets("scale-weight-norms"),
    # -- loss and noise
    "loss_type": sets("loss-type", note="losses"),
    "huber_schedule": sets("huber-schedule"),
    "huber_c": sets("huber-c"),
    "huber_scale": sets("huber-scale"),
    "min_snr_gamma": sets("min-snr-gamma"),
    "debiased_estimation_loss": sets("debiased-estimation-loss"),
    "scale_v_pred_loss_like_noise_pred": sets("scale-v-pred-loss-like-noise-pred"),
    "v_pred_like_loss": sets("v-pred-like-loss"),
    "noise_offset": sets("noise-offset"),
    "noise_offset_random_strength": sets("noise-offset-random-strength"),
    "adaptive_noise_scale": sets("adaptive-noise-scale"),
    "multires_noise_iterations": sets("multires-noise-iterations"),
    "multires_noise_discount": sets("multires-noise-discount"),
    "ip_noise_gamma": sets("ip-noise-gamma"),
    "ip_noise_gamma_random_strength": sets("ip-noise-gamma-random-strength"),
    "min_timestep": sets("min-timestep"),
    "max_timestep": sets("max-timestep"),
    "timestep_sampling": makes("timestep-density", "timestep-shift", note="timestep_sampling"),
    "sigmoid_scale": makes("logit-std"),
    "discrete_flow_shift": makes("timestep-shift", note="discrete_flow_shift"),
    "weighting_scheme": makes("timestep-density", "flow-weighting", note="weighting_scheme"),
    "logit_mean": makes("logit-mean", note="logit_mean"),
    "logit_std": makes("logit-std"),
    "mode_scale": makes("mode-scale"),
    # -- optimizer and learning rate
    "learning_rate": makes("lr", note="learning_rate"),
    "unet_lr": makes("lr"),
    "text_encoder_lr": makes("text-encoder-lr", "train-text-encoder", note="text_encoder_lr"),
    "text_encoder_lr1": makes("text-encoder-lr", note="only_documented"),
    "text_encoder_lr2": makes("text-encoder-lr", note="only_documented"),
    "optimizer_type": makes("optimizer", note="optimizer_type"),
    "optimizer_args": makes("optimizer-option", note="optimizer_args"),
    "use_8bit_adam": makes("optimizer"),
    "use_lion_optimizer": makes("optimizer"),
    "max_grad_norm": sets("max-grad-norm"),
    "lr_scheduler": makes("lr-schedule"),
    "lr_scheduler_num_cycles": makes("lr-scheduler-num-cycles"),
    "lr_warmup_steps": makes("lr-warmup", note="lr_warmup"),
    "lr_decay_steps": makes("lr-decay-steps"),
    "lr_scheduler_power": makes("lr-scheduler-power"),
    "lr_scheduler_timescale": makes("lr-scheduler-timescale"),
    "lr_scheduler_min_lr_ratio": makes("lr-scheduler-min-lr-ratio"),
    "lr_scheduler_type": makes("lr-schedule"),
    "lr_scheduler_args": makes("lr-scheduler-args"),
    # -- steps
    "max_train_steps": makes("steps", note="max_train_steps"),
    "max_train_epochs": makes("epochs", note="max_train_epochs"),
    "train_batch_size": sets("batch-size"),
    "gradient_accumulation_steps": sets("accumulate", note="accumulate"),
    "seed": sets("seed", note="seed"),
    # -- files
    "output_dir": makes("output", note="output_dir"),
    "output_name": makes("name", "output"),
    "save_precision": makes("save-precision", note="save_precision"),
    "save_every_n_steps": makes("save-every"),
    "save_every_n_epochs": sets("save-every-n-epochs"),
    "save_n_epoch_ratio": sets("save-n-epoch-ratio"),
    "save_last_n_epochs": sets("save-last-n-epochs"),
    "save_state": makes("keep-states", note="save_state"),
    "save_last_n_epochs_state": makes("keep-states", note="states_kept"),
    "save_last_n_steps": sets("save-last-n-steps"),
    "save_last_n_steps_state": makes("keep-states", note="states_kept"),
    "resume": makes("continue", "from", note="resume"),
    "no_metadata": sets("no-metadata"),
    "training_comment": sets("training-comment"),
    "metadata_title": makes("metadata"),
    "metadata_author": makes("metadata"),
    "metadata_description": makes("metadata"),
    "metadata_license": makes("metadata"),
    "metadata_tags": makes("metadata"),
    "metadata_usage_hint": makes("metadata"),
    "metadata_thumbnail": makes("metadata"),
    "metadata_merged_from": makes("metadata"),
    "metadata_trigger_phrase": makes("metadata"),
    "metadata_preprocessor": makes("metadata"),
    "metadata_is_negative_embedding": makes("metadata"),
    # -- samples and validation
    "sample_prompts": sets("sample-prompts"),
    "sample_every_n_steps": makes("evaluate-every", note="evaluations"),
    "sample_every_n_epochs": makes("sample-every-n-epochs"),
    "sample_at_first": sets("sample-at-first"),
    "validation_split": makes("hold-out", note="validation_split"),
    "validate_every_n_steps": makes("evaluate-every"),
    "validate_every_n_epochs": makes("sample-every-n-epochs"),
    # -- the command line itself
    "config_file": makes(note="config_file"),
    "output_config": makes(note="output_config"),
}

NO_EFFECT = {
    "v2": NoEffect("sd_family_from_file"),
    "tokenizer_cache_dir": NoEffect("sd_tokenizer_included"),
    "cache_latents": NoEffect("sd_always_cached"),
    "cache_latents_to_disk": NoEffect("sd_always_cached"),
    "cache_text_encoder_outputs": NoEffect("sd_always_cached"),
    "cache_text_encoder_outputs_to_disk": NoEffect("sd_always_cached"),
    "vae_batch_size": NoEffect("sd_encoded_singly"),
    "text_encoder_batch_size": NoEffect("sd_encoded_singly"),
    "t5_tokenizer_path": NoEffect("sd_tokenizer_included"),
    "skip_cache_check": NoEffect("sd_cache_checked"),
    "cache_info": NoEffect("sd_cache_checked"),
    "no_half_vae": NoEffect("sd_vae_precision"),
    "xformers": NoEffect("sd_attention"),
    "mem_eff_attn": NoEffect("sd_attention"),
    "sdpa": NoEffect("sd_attention"),
    "attn_mode": NoEffect("sd_attention"),
    "flash_attn": NoEffect("sd_attention"),
    "sage_attn": NoEffect("sd_attention"),
    "flash3": NoEffect("sd_attention"),
    "split_attn": NoEffect("sd_attention"),
    "dynamo_backend": NoEffect("sd_compiler"),
    "compile_backend": NoEffect("sd_compiler"),
    "compile_mode": NoEffect("sd_compiler"),
    "compile_dynamic": NoEffect("sd_compiler"),
    "compile_fullgraph": NoEffect("sd_compiler"),
    "compile_cache_size_limit": NoEffect("sd_compiler"),
    "dynamo_mode": NoEffect("sd_compiler"),
    "dynamo_fullgraph": NoEffect("sd_compiler"),
    "dynamo_dynamic": NoEffect("sd_compiler"),
    "cuda_allow_tf32": NoEffect("sd_arithmetic"),
    "cuda_cudnn_benchmark": NoEffect("sd_arithmetic"),
    "use_32bit_attention": NoEffect("sd_arithmetic"),
    "vae_dtype": NoEffect("sd_arithmetic"),
    "use_pinned_memory_for_block_swap": NoEffect("sd_memory"),
    "block_swap_h2d_only": NoEffect("sd_memory"),
    "block_swap_ring_size": NoEffect("sd_memory"),
    "img_in_txt_in_offloading": NoEffect("sd_memory"),
    "disable_numpy_memmap": NoEffect("sd_memory"),
    "turbo_dit": NoEffect("sd_own_sampler"),
    "turbo_dit_cache": NoEffect("sd_own_sampler"),
    "metadata_reso": NoEffect("sd_described"),
    "metadata_arch": NoEffect("sd_described"),
    "lowram": NoEffect("sd_memory"),
    "highvram": NoEffect("sd_memory"),
    "cpu_offload_checkpointing": NoEffect("sd_memory"),
    "disable_mmap_load_safetensors": NoEffect("sd_memory"),
    "vae_chunk_size": NoEffect("sd_memory"),
    "vae_disable_cache": NoEffect("sd_memory"),
    "max_data_loader_n_workers": NoEffect("sd_no_loader"),
    "persistent_data_loader_workers": NoEffect("sd_no_loader"),
    "ddp_timeout": NoEffect("sd_single_process"),
    "ddp_gradient_as_bucket_view": NoEffect("sd_single_process"),
    "ddp_static_graph": NoEffect("sd_single_process"),
    "save_state_on_train_end": NoEffect("sd_states_always"),
    "sample_sampler": NoEffect("sd_own_sampler"),
    "validation_seed": NoEffect("sd_own_validation"),
    "max_validation_steps": NoEffect("sd_own_validation"),
    "skip_until_initial_step": NoEffect("sd_resume_exact"),
    "logging_dir": NoEffect("sd_logs_always"),
    "log_prefix": NoEffect("sd_logs_always"),
    "log_tracker_name": NoEffect("sd_logs_always"),
    "log_tracker_config": NoEffect("sd_logs_always"),
    "log_config": NoEffect("sd_logs_always"),
    "console_log_level": NoEffect("sd_console"),
    "console_log_file": NoEffect("sd_console"),
    "console_log_simple": NoEffect("sd_console"),
    "async_upload": NoEffect("sd_upload_parts"),
    "huggingface_repo_type": NoEffect("sd_upload_parts"),
    "huggingface_path_in_repo": NoEffect("sd_upload_parts"),
    "huggingface_token": NoEffect("sd_upload_parts"),
    "huggingface_repo_visibility": NoEffect("sd_upload_parts"),
    "save_state_to_huggingface": NoEffect("sd_upload_parts"),
    "wandb_run_name": NoEffect("sd_wandb_parts"),
    "wandb_api_key": NoEffect("sd_wandb_parts"),
    "controlnet_model_name_or_path": NoEffect("sd_unread"),
    "llm_adapter_path": NoEffect("sd_unread"),
    "llm_adapter_lr": NoEffect("sd_unread"),
    "self_attn_lr": NoEffect("sd_unread"),
    "cross_attn_lr": NoEffect("sd_unread"),
    "mlp_lr": NoEffect("sd_unread"),
    "mod_lr": NoEffect("sd_unread"),
    "zero_stage": NoEffect("sd_deepspeed_parts"),
    "offload_optimizer_device": NoEffect("sd_deepspeed_parts"),
    "offload_optimizer_nvme_path": NoEffect("sd_deepspeed_parts"),
    "offload_param_device": NoEffect("sd_deepspeed_parts"),
    "offload_param_nvme_path": NoEffect("sd_deepspeed_parts"),
    "zero3_init_flag": NoEffect("sd_deepspeed_parts"),
    "zero3_save_16bit_model": NoEffect("sd_deepspeed_parts"),
    "fp16_master_weights_and_gradients": NoEffect("sd_deepspeed_parts"),
}

REFUSED = {
    "full_fp16": Refused("sd_full_fp16"),
    "deepspeed": Refused("sd_deepspeed"),
    "huggingface_repo_id": Refused("sd_upload"),
    "resume_from_huggingface": Refused("sd_resume_from_hub"),
    "log_with": Refused("sd_log_with"),
    "save_model_as": Refused("sd_save_model_as"),
    "dataset_class": Refused("sd_dataset_class"),
    "debug_dataset": Refused("sd_debug_dataset"),
    "fused_backward_pass": Refused("sd_fused_backward"),
    "guidance_scale": Refused("sd_guidance"),
    "model_prediction_type": Refused("sd_prediction_type"),
    "model_type": Refused("sd_model_type"),
    "model_version": Refused("sd_model_version"),
    "num_timestep_buckets": Refused("sd_timestep_buckets"),
    "show_timesteps": Refused("sd_show_timesteps"),
    "apply_t5_attn_mask": Refused("sd_t5_mask"),
    "t5xxl_max_token_length": Refused("sd_text_length"),
    "qwen3_max_token_length": Refused("sd_text_length"),
    "t5_max_token_length": Refused("sd_text_length"),
    "initial_epoch": Refused("sd_initial_step"),
    "initial_step": Refused("sd_initial_step"),
}

HARMLESS = MappingProxyType(
    {
        "log_with": ("tensorboard",),
        "save_model_as": ("safetensors",),
        "initial_epoch": (1,),
        "initial_step": (0,),
        "guidance_scale": (1.0,),
        "model_prediction_type": ("raw",),
        "model_type": ("flux",),
        "model_version": ("klein-base-4b", "klein-base-9b"),
        "t5xxl_max_token_length": (512,),
        "qwen3_max_token_length": (512,),
        "t5_max_token_length": (512,),
        "sample_sampler": ("ddim", "euler", "k_euler"),
    }
)
"""Values of refused arguments, and of those without effect, that ask for what is done here anyway."""

# Arguments of DONE with the values of an option, though not with its default.
_SAME_VALUES = (
    *("learning_rate", "text_encoder_lr", "lr_warmup_steps", "optimizer_type", "optimizer_args"),
    *("network_dim", "network_alpha", "network_dropout", "max_train_steps", "max_train_epochs"),
    *("discrete_flow_shift", "logit_std", "mode_scale", "caption_extension"),
    *("save_every_n_steps", "save_precision", "sample_every_n_steps"),
)


_OF_FILES: dict[Script, dict[str, str]] = {
    "flux_train_network": {"text-encoder": "clip_l / --t5xxl", "vae": "ae"},
    "anima_train_network": {"text-encoder": "qwen3"},
    **{script: {"text-encoder": "text_encoder", "base-model": "dit"} for script in OF_MUSUBI},
}
"""Script -> its arguments for files that another script has no argument for, or another."""


def names_of_options(script: Script | None = None) -> dict[str, str]:
    """Option -> the argument of a script to type for it, where both take the same values."""
    direct = [name for name, row in DONE.items() if row.is_direct]
    names = {DONE[name].options[0]: name for name in (*direct, *_SAME_VALUES)}
    return names if script is None else names | _OF_FILES.get(script, {})
