import numpy as np
import openvino
from tokenizers import Tokenizer

tokens = Tokenizer.from_file("minilm/tokenizer.json").encode("A man is eating food.")
feed = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
model = openvino.Core().compile_model("minilm/model.onnx", "CPU")
print(model({name: np.array([value]) for name, value in feed.items()})["sentence_embedding"])
