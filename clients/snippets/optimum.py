from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer, pipeline

model = ORTModelForCausalLM.from_pretrained("smollm2")
chat = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained("smollm2"))
question = [{"role": "user", "content": "What is the capital of France?"}]
print(chat(question, max_new_tokens=16, do_sample=False)[0]["generated_text"][-1]["content"])
