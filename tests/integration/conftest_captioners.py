"""Tiny random models that caption frames and make sentences, in the form of the large ones."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "woman", "climbs", "runs", "wall",
    "red", "plays", "guitar", "the", "with", "ball", "on", "grass", "dog", "sings", "dances",
]
TEXT = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
IMAGE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2, "image_size": 32, "patch_size": 16}


def random_weights(model):
    """Give a model weights that make its output depend on its input."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = drawn * parameter[0].numel() ** -0.5
    return model


def write_tiny_models(root: Path) -> None:
    """Write the models blip, blip2 and gpt2 below ``root`` as transformers saves them."""
    import transformers as hf

    (root / "vocab.txt").write_text("\n".join(WORDS))
    images = hf.BlipImageProcessor(size={"height": 32, "width": 32})

    def save(name: str, model, make_processor) -> None:
        random_weights(model).save_pretrained(root / name)
        make_processor(hf.BertTokenizer(vocab=str(root / "vocab.txt"))).save_pretrained(root / name)

    blip = hf.BlipConfig(
        text_config={**TEXT, "encoder_hidden_size": 16, "intermediate_size": 16,
                     "max_position_embeddings": 64, "sep_token_id": 3},
        vision_config=IMAGE, projection_dim=8,
    )
    save("blip", hf.BlipForConditionalGeneration(blip),
         lambda tokenizer: hf.BlipProcessor(images, tokenizer))
    text = hf.OPTConfig(**{**TEXT, "vocab_size": len(WORDS) + 2}, ffn_dim=16,
                        word_embed_proj_dim=16, max_position_embeddings=128)
    blip2 = hf.Blip2Config(
        vision_config=IMAGE, text_config=text.to_dict(), num_query_tokens=4,
        qformer_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                        "num_attention_heads": 2, "encoder_hidden_size": 16, "vocab_size": 16},
        image_token_index=len(WORDS),
    )
    save("blip2", hf.Blip2ForConditionalGeneration(blip2),
         lambda tokenizer: hf.Blip2Processor(images, tokenizer, num_query_tokens=4))
    gpt2 = hf.GPT2Config(vocab_size=len(WORDS), n_positions=512, n_embd=16, n_layer=1, n_head=2,
                         bos_token_id=2, eos_token_id=None)  # It always has something to say.
    save("gpt2", hf.GPT2LMHeadModel(gpt2), lambda tokenizer: tokenizer)
