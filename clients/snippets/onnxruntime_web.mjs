import fs from 'node:fs';
import * as ort from 'onnxruntime-web';

const session = await ort.InferenceSession.create(fs.readFileSync('minilm/model.onnx'));
const tokens = [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]; // of tokenizer.json
const tensor = (values) => new ort.Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
const ones = tokens.map(() => 1), zeros = tokens.map(() => 0);
const feed = { input_ids: tensor(tokens), attention_mask: tensor(ones), token_type_ids: tensor(zeros) };
console.log((await session.run(feed)).sentence_embedding.data);
