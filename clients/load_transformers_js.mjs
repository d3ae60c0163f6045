// Load classes of transformers.js in Node, each from a directory of its own.
import path from 'node:path';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(path.join(process.env.CLIENT_MODULES, 'index.js'));
const T = await import(pathToFileURL(require.resolve('@huggingface/transformers')));
T.env.allowRemoteModels = false;
T.env.localModelPath = '/';

// Transformers' RfDetrModel is RFDetrModel here.
const classes = Object.fromEntries(Object.keys(T).map((name) => [name.toLowerCase(), T[name]]));

for (const argument of process.argv.slice(2)) {
    const [name, directory] = argument.split('=');
    let error = '';
    try {
        const model = await classes[name.toLowerCase()].from_pretrained(directory, { dtype: 'fp32', device: 'cpu' });
        await model.dispose();
    } catch (problem) {
        error = String(problem).slice(0, 300) || 'failed';
    }
    console.log(JSON.stringify({ class: name, error }));
}
