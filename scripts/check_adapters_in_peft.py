#!/usr/bin/env python3
"""Loads adapters that peftbench has written into Hugging Face peft and compares the logits.

    cargo run --release -p peftbench-adapters --example adapters_for_peft -- /tmp/adapters
    python scripts/check_adapters_in_peft.py /tmp/adapters

Needs torch, transformers and peft (checked with torch 2.15.0, transformers 5.23.0, peft 0.21.2); the base models are the fixtures of
crates/adapters/tests. Nothing is downloaded. Ends with 1 if any adapter does not load or differs.
"""
import os
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import torch  # noqa: E402

torch.set_num_threads(1)
import peft  # noqa: E402
import peft.tuners.tuners_utils as tuners_utils  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

transformers.logging.set_verbosity_error()
# peft refuses LoRA on Mamba's out_proj, as the CUDA kernels read the raw weight. On the CPU the module is called, and the adapter acts.
tuners_utils._check_lora_target_modules_mamba = lambda *args, **kwargs: None

BASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crates", "adapters", "tests", "fixtures", "parity")
TOLERANCE = 5e-5


def difference(folder):
    base = os.path.basename(folder).split("__")[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(BASES, base), dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(model, folder)
    loaded.eval()
    io = load_file(os.path.join(folder, "io.safetensors"))
    ids, expected = io["input_ids"].long(), io["logits"]
    with torch.no_grad():
        logits = loaded(input_ids=ids).logits if loaded.active_peft_config.is_prompt_learning else loaded(input_ids=ids, use_cache=False).logits
    # peft leaves the logits of virtual tokens in front.
    return float((logits[:, -ids.shape[1]:] - expected).abs().max())


def main():
    root, failed = sys.argv[1], 0
    for name in sorted(os.listdir(root)):
        try:
            off = difference(os.path.join(root, name))
            verdict = "ok" if off <= TOLERANCE else "DIFFERS"
            print(f"{verdict:8} {name:44} {off:.1e}", flush=True)
            failed += verdict != "ok"
        except Exception as error:  # noqa: BLE001
            print(f"FAILED   {name:44} {type(error).__name__}: {str(error)[:300]}", flush=True)
            failed += 1
    print(f"{len(os.listdir(root))} adapters, {failed} failed (torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__})")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
