"""DATA: what this pack uses of ComfyUI, by feature, in one place; and which of it a host lacks.

A name that has vanished takes away its feature, not the pack. `tests/host/test_required_names.py` holds the table against the
sources, and asserts what would fail without a word if the host renamed it.
"""

from __future__ import annotations

import importlib
from typing import Any, Mapping

PACKAGES = (
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "comfy_kitchen",
    "folder_paths",
    "nodes",
    "server",
)  # of the host
# Feature -> names of the host, each "module.attribute..."; those of comfy_api's `io` stand in the nodes' schemas, which are
# asked for one by one.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "models": (
        "comfy.conds.CONDRegular",
        "comfy.latent_formats.ChromaRadiance",
        "comfy.lora.calculate_shape",
        "comfy.lora.calculate_weight",
        "comfy.ldm.modules.attention.optimized_attention",
        "comfy.memory_management.aimdo_enabled",
        "comfy.model_base.Chroma",
        "comfy.model_base.Flux.concat_cond",
        "comfy.model_management.cast_to_device",
        "comfy.model_management.free_memory",
        "comfy.model_management.get_free_memory",
        "comfy.model_management.get_torch_device",
        "comfy.model_management.in_training",
        "comfy.model_management.is_device_cpu",
        "comfy.model_management.maximum_vram_for_weights",
        "comfy.model_management.soft_empty_cache",
        "comfy.model_management.throw_exception_if_processing_interrupted",
        "comfy.model_management.unet_dtype",
        "comfy.model_management.unet_manual_cast",
        "comfy.model_management.unet_offload_device",
        "comfy.model_patcher.CoreModelPatcher",
        "comfy.model_patcher.ModelPatcher",
        "comfy.ops.cast_bias_weight",
        "comfy.ops.manual_cast",
        "comfy.ops.mixed_precision_ops",
        "comfy.ops.run_every_op",
        "comfy.ops.uncast_bias_weight",
        "comfy.patcher_extension.CallbacksMP.ON_DETACH",
        "comfy.patcher_extension.CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES",
        "comfy.patcher_extension.WrapperExecutor.new_class_executor",
        "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
        "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
        "comfy.patcher_extension.get_all_wrappers",
        "comfy.quant_ops.QUANT_ALGOS",
        "comfy.quant_ops.QuantizedLayout",
        "comfy.quant_ops.QuantizedTensor.from_float",
        "comfy.quant_ops.ck.apply_rope",
        "comfy.quant_ops.ck.apply_rope1",
        "comfy.quant_ops.register_layout_op",
        "comfy.supported_models.Chroma",
        "comfy.supported_models.ChromaRadiance.memory_usage_factor",
        "comfy.utils.DISABLE_MMAP",
        "comfy.utils.ProgressBar",
        "comfy.utils.load_torch_file",
        "comfy_kitchen.tensor.base.BaseLayoutParams",
        "comfy_kitchen.tensor.base.get_layout_class",
        "comfy_kitchen.tensor.base.register_layout_class",
    ),
    "pictures": ("comfy.utils.common_upscale",),
    "tables": ("comfy_api.latest.ui.PreviewImage", "folder_paths.get_input_directory"),
    "XY plots": (
        "comfy.utils.ProgressBar",
        "comfy_execution.progress.ProgressHandler",
        "comfy_execution.progress.get_progress_state",
        "nodes.NODE_CLASS_MAPPINGS",
    ),
    "LoRAs": (
        "comfy.lora.load_lora",
        "comfy.lora.model_lora_keys_unet",
        "comfy.lora_convert.convert_lora",
        "comfy.model_patcher.ModelPatcher.get_nested_additional_models",
        "comfy.model_patcher.ModelPatcher.set_additional_models",
        "comfy.patcher_extension.WrappersMP.APPLY_MODEL",
        "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
        "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
        "comfy.weight_adapter.WeightAdapterBase",
        "comfy.weight_adapter.base.pad_tensor_to_shape",
        "comfy.weight_adapter.LoRAAdapter",
        "folder_paths.get_filename_list",
        "folder_paths.get_full_path",
    ),
    "saving": (
        "comfy.lora.calculate_weight",
        "comfy.model_management.free_memory",
        "comfy.model_management.get_torch_device",
        "comfy.model_management.throw_exception_if_processing_interrupted",
        "comfy.quant_ops.QuantizedTensor",
        "comfy.utils.ProgressBar",
        "comfy.utils.get_attr",
        "folder_paths.get_output_directory",
        "folder_paths.get_save_image_path",
    ),
    "blocks": (
        "comfy.model_patcher.create_model_options_clone",
        "comfy.model_patcher.set_model_options_patch_replace",
        "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
        "comfy.sample.fix_empty_latent_channels",
        "comfy.sample.prepare_noise",
        "comfy.samplers.CFGGuider",
        "comfy.samplers.KSAMPLER",
        "comfy.samplers.calculate_sigmas",
        "comfy.utils.ProgressBar",
        "comfy_api.latest.ui.PreviewImage",
        "folder_paths.get_input_directory",
        "comfy.ldm.chroma.model.Chroma",
        "comfy.ldm.flux.model.Flux",
    ),
    "ControlNets": (
        "comfy.controlnet.ControlNet.copy_to",
        "comfy.ldm.flux.controlnet.ControlNetFlux",
        "comfy_extras.nodes_controlnet.ControlNetInpaintingAliMamaApply",
        "comfy.utils.repeat_to_batch_size",
        "nodes.ControlNetApplyAdvanced",
    ),
    "NAG": ("comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",),
    "text encoders": (
        "comfy.ldm.modules.attention.optimized_attention_for_device",
        "comfy.model_management.text_encoder_device",
        "comfy.model_management.text_encoder_dtype",
        "comfy.patcher_extension.CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES",
        "comfy.ops.cast_bias_weight",
        "comfy.ops.cast_to_input",
        "comfy.ops.manual_cast.Embedding.forward_comfy_cast_weights",
        "comfy.ops.uncast_bias_weight",
        "comfy.quant_ops.QuantizedTensor",
        "comfy.sd.CLIP",
        "comfy.text_encoders.pixart_t5.PixArtTokenizer",
        "comfy.text_encoders.pixart_t5.pixart_te",
        "comfy.text_encoders.sa_t5.SAT5Model",
        "comfy.text_encoders.sa_t5.SAT5Tokenizer",
        "comfy_kitchen.tensor.base.get_layout_class",
        "folder_paths.get_folder_paths",
    ),
    "prompts": (
        "comfy.text_encoders.pixart_t5.PixArtTokenizer",
        "comfy.model_management.intermediate_device",
        "comfy.sd1_clip.SDClipModel",
        "comfy.sd1_clip.escape_important",
        "comfy.sd1_clip.gen_empty_tokens",
        "comfy.sd1_clip.token_weights",
        "comfy.sd1_clip.unescape_important",
    ),
    "guidance": (
        "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL",
        "comfy.patcher_extension.WrappersMP.OUTER_SAMPLE",
        "comfy.patcher_extension.WrappersMP.PREDICT_NOISE",
        "comfy.patcher_extension.add_wrapper_with_key",
        "comfy.samplers.CFGGuider.predict_noise",
        "comfy.samplers.calc_cond_batch",
        "comfy.samplers.cfg_function",
    ),
    "samplers": (
        "comfy.k_diffusion.sampling",
        "comfy.model_sampling.CONST",
        "comfy.samplers.KSAMPLER",
        "comfy.samplers.KSAMPLER_NAMES",
        "comfy.samplers.SAMPLER_NAMES",
    ),
    "schedules": (
        "comfy.model_base.Flux",
        "comfy.model_sampling.CONST",
        "comfy.model_sampling.ModelSamplingDiscreteFlow",
        "comfy.model_sampling.ModelSamplingFlux",
        "comfy.samplers.KSampler.SCHEDULERS",
        "comfy.samplers.SCHEDULER_HANDLERS",
        "comfy.samplers.SCHEDULER_NAMES",
        "comfy.samplers.SchedulerHandler",
        "comfy_api.latest.ui.PreviewImage",
    ),
    "sampling": (
        "comfy.model_management.get_torch_device",
        "comfy.model_management.get_torch_device_name",
        "comfy.samplers.KSampler.SAMPLERS",
        "comfy.samplers.KSampler.SCHEDULERS",
        "comfy.samplers.calculate_sigmas",
        "comfy.samplers.sampler_object",
        "comfy_extras.nodes_custom_sampler.RandomNoise.execute",
        "comfy_extras.nodes_custom_sampler.SamplerCustomAdvanced.execute",
        "folder_paths.get_system_user_directory",
    ),
    "FluxMod's nodes": (
        "comfy.model_base.BaseModel",
        "comfy.ops.CastWeightBiasOp",
        "comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE",
        "comfy.samplers.KSAMPLER",
        "comfy.samplers.KSampler.SAMPLERS",
        "comfy.samplers.KSampler.SCHEDULERS",
        "nodes.common_ksampler",
    ),
    "advice": (
        "comfy.model_base.Chroma",
        "comfy.model_base.ChromaRadiance",
        "comfy.model_base.Flux",
        "comfy.samplers.SAMPLER_NAMES",
        "comfy.samplers.sampler_object",
        "comfy.supported_models.FluxSchnell",
        "comfy_api.latest.ui.PreviewText",
        "nodes.NODE_CLASS_MAPPINGS",
        "nodes.NODE_DISPLAY_NAME_MAPPINGS",
    ),
    "Python": (
        "comfy.model_management.intermediate_device",
        "comfy.sd.VAE",
        "comfy.utils.load_torch_file",
        "comfy_extras.nodes_custom_sampler.RandomNoise.execute",
        "comfy_extras.nodes_custom_sampler.SamplerCustomAdvanced.execute",
        "folder_paths.get_folder_paths",
        "folder_paths.get_full_path",
    ),
    "Studio": (
        "comfy_api.latest.io.NodeOutput",
        "comfy_execution.graph_utils.GraphBuilder.alloc_prefix",
        "nodes.NODE_CLASS_MAPPINGS",
        "nodes.NODE_DISPLAY_NAME_MAPPINGS",
        "nodes.VAELoader.vae_list",
    ),
    "curve": (
        "comfy.model_sampling.ModelSamplingDiscreteFlow",
        "comfy.model_sampling.ModelSamplingFlux",
    ),
    "reports": ("server.PromptServer.add_on_prompt_handler",),
    "old graphs": (
        "comfy_api.latest.ComfyAPISync",
        "nodes.NODE_CLASS_MAPPINGS",
        "server.PromptServer.add_on_prompt_handler",
    ),
    "nodes": (
        "comfy_api.latest.ComfyExtension",
        "comfy_execution.graph_utils.is_link",
        "comfy_execution.progress.get_progress_state",
        "comfy_execution.utils.get_executing_context",
        "folder_paths.folder_names_and_paths",
        "folder_paths.get_filename_list",
        "folder_paths.get_filename_list_",
        "folder_paths.get_folder_paths",
        "folder_paths.get_full_path",
    ),
}


def resolve(name: str) -> Any:
    """The module or attribute of a dotted name.

    raises: ImportError or AttributeError where there is none.
    """
    parts = name.split(".")
    found, rest = importlib.import_module(parts[0]), parts[1:]
    path = parts[0]
    while rest:
        path = f"{path}.{rest[0]}"
        if not hasattr(found, rest[0]) and hasattr(found, "__path__"):
            importlib.import_module(path)
        found = getattr(found, rest.pop(0))
    return found


def lacking(features: tuple[str, ...]) -> list[str]:
    """Names that these features need and this host does not have."""
    out = []
    for name in (name for feature in features for name in NEEDED[feature]):
        try:
            resolve(name)
        except (ImportError, AttributeError):
            out.append(name)
    return out
