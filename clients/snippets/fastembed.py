from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

mean, source = PoolingType.MEAN, ModelSource(hf="minilm")
TextEmbedding.add_custom_model("minilm", mean, True, source, dim=384, model_file="model.onnx")
model = TextEmbedding("minilm", specific_model_path="minilm")
print(next(iter(model.embed(["A man is eating food."]))))
