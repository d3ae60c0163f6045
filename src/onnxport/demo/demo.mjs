// Run the exported model with a pipeline of transformers.js; all files come from the server of the page.
import { env, pipeline, read_audio } from './library/transformers.min.js';

const MAX_VALUES = 8;
const MAX_NEW_TOKENS = 64;
const SAMPLES = { text: 'Hello, how are you?', context: 'Paris is the capital of France.', labels: 'cat, dog, landscape' };

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = new URL('./', location.href).pathname;
env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = new URL('./kernels/', location.href).href;

const element = (id) => document.getElementById(id);
const settings = await (await fetch('settings.json')).json();
const loaded = {};

function show(state, result = '') {
    element('state').textContent = state;
    element('result').textContent = result;
}

// Tensors and images are too long to show: their shapes and first values are.
function plain(name, value) {
    if (value && value.dims && value.data) {
        return { shape: value.dims, first: [...value.data.slice(0, MAX_VALUES)].map(Number) };
    }
    if (value && value.width && value.height && value.data) return { width: value.width, height: value.height };
    return typeof value === 'bigint' ? Number(value) : value;
}

async function model(dtype) {
    loaded[dtype] ??= await pipeline(settings.pipeline, 'model', { dtype, device: 'wasm' });
    return loaded[dtype];
}

async function input(name, run) {
    if (name === 'labels') return element('labels').value.split(',').map((label) => label.trim()).filter(Boolean);
    if (name !== 'image' && name !== 'audio') return element(name).value;
    const [file] = element(name).files;
    if (!file) throw new Error(`choose a file: ${name}`);
    const url = URL.createObjectURL(file);
    return name === 'image' ? url : read_audio(url, run.processor.feature_extractor.config.sampling_rate);
}

function options() {
    if (settings.task === 'sentence-similarity') return { pooling: 'mean', normalize: true };
    if (/generation|image-to-text/.test(settings.task)) return { max_new_tokens: MAX_NEW_TOKENS };
    return {};
}

async function run(event) {
    event.preventDefault();
    element('run').disabled = true;
    const dtype = element('dtype').value;
    try {
        show(`Loading ${dtype} …`);
        const pipe = await model(dtype);
        const inputs = [];
        for (const name of settings.inputs) inputs.push(await input(name, pipe));
        show('Running …');
        const start = performance.now();
        const result = await pipe(...inputs, options());
        const threads = self.crossOriginIsolated ? 'several threads' : 'one thread';
        show(`${dtype}: ${(performance.now() - start).toFixed(0)} ms on WASM, ${threads}`, JSON.stringify(result, plain, 2));
        document.body.dataset.state = 'done';
    } catch (error) {
        show('Failed', String(error.message ?? error));
        document.body.dataset.state = 'failed';
    }
    element('run').disabled = false;
}

element('name').textContent = settings.name;
element('task').textContent = `${settings.task}, in this browser: nothing leaves this machine`;
for (const name of settings.inputs) {
    element(`${name}-label`).hidden = false;
    if (name in SAMPLES) element(name).value = settings.task === 'fill-mask' ? 'Paris is the [MASK] of France.' : SAMPLES[name];
}
for (const dtype of settings.dtypes) element('dtype').append(new Option(dtype));
element('form').addEventListener('submit', run);
document.body.dataset.state = 'ready';
