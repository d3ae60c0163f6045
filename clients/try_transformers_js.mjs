// transformers.js in Node: `from_pretrained(directory)`, with the layout transformers.js.
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { cases } from './transformers_js_cases.mjs';

const require = createRequire(path.join(process.env.CLIENT_MODULES, 'index.js'));
const T = await import(pathToFileURL(require.resolve('@huggingface/transformers')));
T.env.allowRemoteModels = false;
T.env.localModelPath = '/';
const clients = cases(T, { dtype: process.env.CLIENT_DTYPE ?? 'fp32', device: 'cpu' });

for (const argument of process.argv.slice(2)) {
    const [name, directory, file] = argument.split('=');
    let result;
    try {
        const found = await clients[name](directory, JSON.parse(fs.readFileSync(file, 'utf-8')));
        result = { case: name, passed: true, result: found };
    } catch (error) {
        console.error(error);
        result = { case: name, passed: false, result: String(error).slice(0, 300) };
    }
    console.log(JSON.stringify(result));
}
