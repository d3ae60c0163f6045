// Load classes of transformers.js in Node, each from a directory of its own, and compare what they return with PyTorch's.
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(path.join(process.env.CLIENT_MODULES, 'index.js'));
const T = await import(pathToFileURL(require.resolve('@huggingface/transformers')));
T.env.allowRemoteModels = false;
T.env.localModelPath = '/';

const TOLERANCE = 1e-3;
// Transformers' RfDetrModel is RFDetrModel here.
const classes = Object.fromEntries(Object.keys(T).map((name) => [name.toLowerCase(), T[name]]));

function tensor({ type, shape, data }) {
    if (type === 'bool') return new T.Tensor('bool', Uint8Array.from(data, Number), shape);
    return new T.Tensor(type, type === 'int64' ? data.map((value) => BigInt(value)) : data, shape);
}

async function compare(model, reference) {
    const inputs = Object.fromEntries(Object.entries(reference.inputs).map(([name, value]) => [name, tensor(value)]));
    if (reference.tokens && model.can_generate) {
        const { decoder_input_ids, ...prompt } = inputs;
        const count = { max_new_tokens: 12, min_new_tokens: 12, do_sample: false };
        const found = (await model.generate({ ...prompt, ...count })).tolist().map((row) => row.map(Number));
        if (JSON.stringify(found) !== JSON.stringify(reference.tokens)) {
            throw new Error(`generates ${JSON.stringify(found)}, PyTorch ${JSON.stringify(reference.tokens)}`);
        }
        return 'tokens';
    }
    const found = await model(inputs);
    const names = Object.keys(reference.outputs).filter((name) => found[name]?.data);
    for (const name of names) {
        const { shape, data } = reference.outputs[name];
        if (String(found[name].dims) !== String(shape)) {
            throw new Error(`${name} has the shape ${found[name].dims} instead of ${shape}`);
        }
        const largest = data.reduce((most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most), 1);
        const differs = data.findIndex((value, i) => Math.abs(Number(found[name].data[i]) - value) > TOLERANCE * largest);
        if (differs >= 0) throw new Error(`${name} has ${found[name].data[differs]} instead of ${data[differs]}`);
    }
    return names.length ? 'outputs' : '';
}

for (const argument of process.argv.slice(2)) {
    const [name, directory] = argument.split('=');
    let error = '';
    let compared = '';
    try {
        const model = await classes[name.toLowerCase()].from_pretrained(directory, { dtype: 'fp32', device: 'cpu' });
        const file = path.join(directory, 'reference.json');
        if (fs.existsSync(file)) compared = await compare(model, JSON.parse(fs.readFileSync(file, 'utf8')));
        await model.dispose();
    } catch (problem) {
        error = String(problem).slice(0, 300) || 'failed';
    }
    console.log(JSON.stringify({ class: name, error, compared }));
}
