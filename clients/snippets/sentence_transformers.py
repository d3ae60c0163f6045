from sentence_transformers import SentenceTransformer

model = SentenceTransformer("minilm", backend="onnx")
embeddings = model.encode(["A man is eating food.", "Someone is having a meal."])
print(model.similarity(embeddings, embeddings))
