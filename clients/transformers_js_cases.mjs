// What transformers.js is tried with, in Node and in a browser: name of a case to a function of a directory and its data.
import { same } from './same.mjs';

const GREEDY = { max_new_tokens: 12, min_new_tokens: 12, do_sample: false };

export function cases(T, options) {
    const tensor = ({ type, shape, data }) => new T.Tensor(type, type === 'int64' ? data.map(BigInt) : data, shape);
    const inputsOf = (c) => Object.fromEntries(Object.entries(c.inputs).map(([name, value]) => [name, tensor(value)]));

    const tokens = (name) => async (directory, c) => {
        const model = await T[name].from_pretrained(directory, options);
        const found = await model.generate({ ...inputsOf(c), ...GREEDY, ...c.settings });
        const list = found.tolist()[0].map(Number);
        if (JSON.stringify(list) !== JSON.stringify(c.tokens)) throw new Error(`tokens ${list}, PyTorch's are ${c.tokens}`);
        return 'tokens =';
    };

    const outputs = (...names) => async (directory, c) => {
        const found = {};
        for (const name of names) {
            const model = await T[name].from_pretrained(directory, options);
            Object.assign(found, await model(inputsOf(c)));
        }
        const shared = Object.keys(found).filter((name) => name in c.outputs);
        if (!shared.length) throw new Error(`outputs ${Object.keys(found)}`);
        return same(shared.flatMap((name) => [...found[name].data]), shared.flatMap((name) => c.outputs[name]));
    };

    return {
        async minilm(directory, c) {
            const extract = await T.pipeline('feature-extraction', directory, options);
            return same((await extract(c.sentences, { pooling: 'mean', normalize: true })).data, c.embeddings.flat());
        },
        async classifier(directory, c) {
            const classify = await T.pipeline('text-classification', directory, options);
            const [{ label }] = await classify(c.text);
            if (label !== c.label) throw new Error(`label ${label}, PyTorch's is ${c.label}`);
            return 'label =';
        },
        async smollm2(directory, c) {
            const generate = await T.pipeline('text-generation', directory, options);
            const messages = [{ role: 'user', content: c.question }];
            const answer = (await generate(messages, { max_new_tokens: 32, do_sample: false }))[0].generated_text.at(-1).content;
            if (answer !== c.answer) throw new Error(`answer ${answer}, PyTorch's is ${c.answer}`);
            return 'answer =';
        },
        async whisper_words(directory, c) {
            const transcribe = await T.pipeline('automatic-speech-recognition', directory, options);
            const audio = Float32Array.from({ length: 16000 * c.seconds }, (_, i) => 0.5 * Math.sin(i / 36));
            const { chunks } = await transcribe(audio, { return_timestamps: 'word', language: 'en', max_new_tokens: 12 });
            if (!chunks.every(({ timestamp }) => timestamp.length === 2)) throw new Error('no timestamps');
            return 'words';
        },
        t5: tokens('AutoModelForSeq2SeqLM'),
        whisper: tokens('AutoModelForSpeechSeq2Seq'),
        vit: outputs('AutoModelForImageClassification'),
        clip: outputs('CLIPModel'),
        clip_split: outputs('CLIPTextModelWithProjection', 'CLIPVisionModelWithProjection'),
        sam: outputs('SamModel'),
        smolvlm: tokens('AutoModelForImageTextToText'),
        qwen2_vl: tokens('AutoModelForImageTextToText'),
        qwen3_vl: tokens('AutoModelForImageTextToText'),
        paligemma: tokens('AutoModelForImageTextToText'),
        gemma3: tokens('AutoModelForImageTextToText'),
    };
}
