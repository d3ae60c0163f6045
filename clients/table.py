"""Write docs/clients.md: which client loads which model, and what it returned beside PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "clients.md"
MODELS = {
    "minilm": "all-MiniLM-L6-v2",
    "classifier": "BERT, 50 classes",
    "smollm2": "SmolLM2-135M-Instruct, chat",
    "t5": "T5, tiny",
    "whisper": "Whisper, tiny",
    "whisper_words": "Whisper with cross-attentions, tiny",
    "vit": "ViT, tiny",
    "clip": "CLIP, tiny",
    "clip_split": "CLIP's halves, tiny",
    "sam": "SAM, tiny",
    "smolvlm": "SmolVLM, tiny",
    "qwen2_vl": "Qwen2-VL, tiny",
    "qwen3_vl": "Qwen3-VL, tiny",
    "paligemma": "PaliGemma, tiny",
    "gemma3": "Gemma 3 with images, tiny",
}
HEAD = """# Clients

What other software makes of exported directories. Each client loads the default [layout](layouts.md), or the one that
is named after it, as it is; its results are compared with PyTorch's on the same inputs. `make clients` installs the
clients, exports the models, compares, and writes this page.

A number is the largest difference; "tokens =", "label =" and "answer =" mean that they are PyTorch's (12 tokens, and up
to 32 of the chat); "words" that each word has times. A cell is empty where the client has no class for the model, or
wasn't tried. Tiny models have random weights. OpenVINO is told to compute in float32, which isn't its default on
processors with bfloat16. Triton's own client asks a stand-in for its server, which reads the configurations with
Triton's schema and runs the graphs in ONNX Runtime.

"""


CODE = """

## Code

`make clients` runs each of these. `minilm` and `smollm2` are directories in the default layout; `minilm-js` has the
layout `transformers.js` (`onnxport layout minilm minilm-js --to transformers.js`), `smollm2-genai` has `genai`, and
`minilm-triton` has `triton`.
"""


def write_page(results: dict[str, dict[str, Any]], cases: list[str], snippets: dict[str, Path]) -> None:
    """Write the page.

    Args:
        results: client to case to its result.
        cases: the cases, in the order of the rows.
        snippets: client to the file of its snippet.
    """
    clients = list(results)
    rows = [["model", *clients], ["---"] * (len(clients) + 1)]
    rows += [[MODELS[case], *(_cell(results[client].get(case)) for client in clients)] for case in cases]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failures = [
        f"- {client}, {MODELS[case]}: {result['result']}"
        for client, found in results.items()
        for case, result in found.items()
        if not result["passed"]
    ]
    notes = "\n\n## Failures\n\n" + "\n".join(failures) if failures else ""
    code = "".join(f"\n### {client}\n\n{_block(file)}" for client, file in snippets.items())
    PAGE.write_text(HEAD + table + notes + CODE + code, encoding="utf-8")


def _block(file: Path) -> str:
    language = {".py": "python", ".mjs": "js"}[file.suffix]
    return f"```{language}\n{file.read_text(encoding='utf-8')}```\n"


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    return str(result["result"]) if result["passed"] else "fails"
