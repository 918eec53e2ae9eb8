"""Which alpha a module has in a file, where those of training differ. What diffusers makes of it: `test_write`."""

from lorasmith.exporting.alphas import shared_alphas
from tests.exporting.made_lora import SD15

UNET = "lora_unet_mid_block_attentions_0_transformer_blocks_0_"
TEXT = "lora_te_text_model_encoder_layers_0_"
WINDOW = "lora_unet_mid_block_resnets_{}_conv{}"


def test_the_commonest_of_each_component() -> None:
    own = {f"{UNET}attn1_to_q": 2.0, f"{UNET}attn1_to_k": 1.0, f"{UNET}ff_net_2": 1.0, f"{TEXT}mlp_fc1": 8.0}
    assert shared_alphas(own, SD15) == {**own, f"{UNET}attn1_to_q": 1.0}


def test_convolutions_keep_theirs_while_it_is_rarer() -> None:
    own = {f"{UNET}attn1_to_q": 2.0, f"{UNET}attn1_to_k": 2.0, WINDOW.format(0, 1): 1.0}
    assert shared_alphas(own, SD15) == own
    own[WINDOW.format(0, 2)] = 1.0
    assert set(shared_alphas(own, SD15).values()) == {2.0}
    own[WINDOW.format(0, 2)] = 3.0
    assert shared_alphas(own, SD15) == own
    only = {WINDOW.format(0, 1): 1.0, WINDOW.format(0, 2): 3.0}
    assert shared_alphas(only, SD15) == only
