import numpy as np
import tritonclient.grpc as triton
from tokenizers import Tokenizer

tokens = Tokenizer.from_file("minilm-triton/tokenizer.json").encode("A man is eating food.")
feed = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
inputs = [triton.InferInput(name, [1, len(ids)], "INT64") for name, ids in feed.items()]
for tensor, ids in zip(inputs, feed.values(), strict=True):
    tensor.set_data_from_numpy(np.array([ids]))
client = triton.InferenceServerClient("localhost:8001")  # tritonserver --model-repository minilm-triton
print(client.infer("model", inputs).as_numpy("sentence_embedding"))
