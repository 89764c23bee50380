"""Models that write captions: one describes frames, and one sums up the descriptions.

Both come from the package transformers, which only this file needs, and imports only when used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from openvclip.utils.errors import ConfigError, first_line
from openvclip.utils.torchvision_ops import import_torchvision

FRAME_TOKENS, SUMMARY_TOKENS = 40, 80
# A model on the hub: an owner and a name.
HUB_NAME = re.compile(r"[\w-]+/[\w.-]+")
# What chat models put around or before an answer: Sure! Here it is: "A man ...".
MARKS = " \t\"'*\u201c\u201d"
ANNOUNCED = re.compile(r":\s*[\"\u201c](.+)[\"\u201d]\s*$")
REQUEST = (
    "Each numbered line describes one moment of the same short video, from its beginning to its "
    "end. The descriptions were written by a machine and can be wrong.\n{lines}\n"
    "Say in one sentence of at most 25 words what happens in the video. Use only what the lines "
    "say, prefer what several of them agree on, and do not mention lines, moments or the video. "
    "Answer with the sentence alone."
)


@dataclass
class Captioner:
    """An image-to-text model, such as BLIP or BLIP-2; captions continue ``prompt``, if any."""

    processor: Any
    model: Any
    prompt: str = ""

    def describe(self, frames: np.ndarray) -> list[str]:
        """Return a caption for each frame, in order; a caption may be empty.

        Args:
            frames: uint8 RGB (N, H, W, 3).
        """
        texts = {"text": [self.prompt] * len(frames)} if self.prompt else {}
        inputs = self.processor(images=list(frames), return_tensors="pt", **texts)
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=FRAME_TOKENS, do_sample=False)
        written = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [self._without_prompt(" ".join(text.split())) for text in written]

    def _without_prompt(self, text: str) -> str:
        if self.prompt and text.lower().startswith(self.prompt.lower()):
            return text[len(self.prompt):].strip()
        return text


@dataclass
class Summariser:
    """A language model that follows instructions, such as LLaMA-2-chat.

    If its tokenizer has a chat template, that is used.
    """

    tokenizer: Any
    model: Any

    def summarise(self, captions: Sequence[str]) -> str:
        """Turn the captions of a video's frames into one sentence; it may be empty."""
        lines = "\n".join(f"{number}. {text}" for number, text in enumerate(captions, 1))
        inputs = self._inputs(REQUEST.format(lines=lines)).to(self.model.device)
        known = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        padding = self.tokenizer.pad_token_id
        with torch.inference_mode():
            tokens = self.model.generate(
                **known, max_new_tokens=SUMMARY_TOKENS, do_sample=False,
                pad_token_id=self.tokenizer.eos_token_id if padding is None else padding)
        answer = tokens[0, known["input_ids"].shape[1]:]
        return clean_answer(self.tokenizer.decode(answer, skip_special_tokens=True))

    def _inputs(self, request: str) -> Any:
        if self.tokenizer.chat_template is None:
            return self.tokenizer(f"{request}\nSentence:", return_tensors="pt")
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": request}], add_generation_prompt=True,
            return_tensors="pt", return_dict=True,
        )


def clean_answer(answer: str) -> str:
    """Return a chat model's answer without "Sure, here it is:" and quotation marks."""
    for line in answer.splitlines():
        announced = ANNOUNCED.search(line)
        text = (announced[1] if announced else line).strip(MARKS)
        if text and not text.endswith(":"):
            return text
    return ""


def pick_device(name: str | None) -> torch.device:
    """Return the device of that name; by default the GPU if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts.
        raise ConfigError(f"--device {name} cannot be used: {first_line(error)}") from error


def load_captioner(name: str, device: torch.device, prompt: str = "") -> Captioner:
    """Load an image-to-text model.

    Args:
        name: a local folder, or the name of a model on the hub, which is downloaded.
        device: where it runs; in half precision on a GPU.
        prompt: beginning that the captions continue.

    Raises:
        ConfigError: transformers is not installed, or the model cannot be loaded.
    """
    library = import_transformers()
    load = _loader(name, "--captioner")
    processor = load(library.AutoProcessor)
    return Captioner(processor, _model(load, library.AutoModelForImageTextToText, device), prompt)


def load_summariser(name: str, device: torch.device) -> Summariser:
    """Load a causal language model; arguments and errors as in :func:`load_captioner`."""
    library = import_transformers()
    load = _loader(name, "--summariser")
    tokenizer = load(library.AutoTokenizer)
    return Summariser(tokenizer, _model(load, library.AutoModelForCausalLM, device))


def import_transformers() -> ModuleType:
    """Import transformers; a ConfigError says how to install it."""
    import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"captions are written by the package transformers ({first_line(error)}): "
            "pip install openvclip[captions]"
        ) from error
    transformers.logging.set_verbosity_error()
    return transformers


def _loader(name: str, option: str) -> Callable[..., Any]:
    """Return a function that calls ``from_pretrained`` of a class; never online for a folder."""
    local = Path(name).is_dir()
    if not local and (os.path.isabs(name) or not HUB_NAME.fullmatch(name)):
        raise ConfigError(
            f"{option} {name} is not a folder; give a model's folder, or its name on the hub "
            "(owner/name) to download it"
        )

    def load(kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(name, local_files_only=local, trust_remote_code=False,
                                        **options)
        except Exception as error:  # Damaged folders can raise any exception.
            raise ConfigError(
                f"{option} {name} cannot be loaded: {type(error).__name__}: {first_line(error)}; "
                "give a folder or hub name of transformers with config, weights and tokenizer"
            ) from error

    return load


def _model(load: Callable[..., Any], kind: Any, device: torch.device) -> Any:
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    return load(kind, dtype=half).to(device).eval()
