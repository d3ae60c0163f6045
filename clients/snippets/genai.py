import onnxruntime_genai as genai

model = genai.Model("smollm2-genai")
tokenizer, parameters = genai.Tokenizer(model), genai.GeneratorParams(model)
parameters.set_search_options(max_length=32)
generator = genai.Generator(model, parameters)
generator.append_tokens(tokenizer.encode("The capital of France is"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
