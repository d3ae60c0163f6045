// transformers.js and onnxruntime-web in headless Chromium, on WASM with several threads: a page from localhost with
// cross-origin isolation.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const modules = process.env.CLIENT_MODULES;
const { chromium } = createRequire(path.join(modules, 'index.js'))('playwright-core');
const exported = Object.fromEntries(process.argv.slice(2).map((argument) => {
    const [name, directory, file] = argument.split('=');
    return [name, { directory, file }];
}));
const folders = {
    library: path.join(modules, 'node_modules/@huggingface/transformers/dist'),
    kernels: path.join(modules, 'node_modules/onnxruntime-web/dist'),
    clients: path.dirname(fileURLToPath(import.meta.url)),
};
const TYPES = { '.mjs': 'text/javascript', '.js': 'text/javascript', '.wasm': 'application/wasm', '.json': 'application/json' };
const TRANSFORMERS = `
import * as T from '/library/transformers.min.js';
import { cases } from '/clients/transformers_js_cases.mjs';
T.env.allowRemoteModels = false;
T.env.allowLocalModels = true;
T.env.localModelPath = '/exports/';
T.env.useBrowserCache = false;
T.env.backends.onnx.wasm.wasmPaths = location.origin + '/kernels/';
const clients = cases(T, { dtype: '${process.env.CLIENT_DTYPE ?? 'fp32'}', device: 'wasm' });
`;
const ONNXRUNTIME = `
import * as ort from '/kernels/ort.wasm.min.mjs';
import { cases } from '/clients/onnxruntime_web_cases.mjs';
ort.env.wasm.wasmPaths = location.origin + '/kernels/';
const clients = cases(ort);
`;
const CODE = process.env.CLIENT_NAME.startsWith('onnxruntime-web') ? ONNXRUNTIME : TRANSFORMERS;
const PAGE = `<!doctype html><link rel="icon" href="data:,"><script type="module">${CODE}
window.run = (name, data) => clients[name](name, data);
</script>`;
const OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'];

function send(request, response) {
    const [, folder, ...rest] = decodeURIComponent(new URL(request.url, 'http://localhost').pathname).split('/');
    const headers = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };
    if (!folder) {
        response.writeHead(200, { ...headers, 'Content-Type': 'text/html' }).end(PAGE);
        return;
    }
    const root = folder === 'exports' ? exported[rest.shift()]?.directory : folders[folder];
    const file = root && path.join(root, ...rest);
    if (!file || !fs.existsSync(file)) {
        response.writeHead(404).end();
        return;
    }
    const type = TYPES[path.extname(file)] ?? 'application/octet-stream';
    response.writeHead(200, { ...headers, 'Content-Type': type, 'Content-Length': fs.statSync(file).size });
    fs.createReadStream(file).pipe(response);
}

const server = http.createServer(send);
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const browser = await chromium.launch({ executablePath: process.env.CLIENT_CHROMIUM, args: OPTIONS });
for (const [name, { file }] of Object.entries(exported)) {
    const page = await browser.newPage();
    const url = `http://127.0.0.1:${server.address().port}/`;
    page.on('pageerror', (error) => console.error(String(error)));
    let result;
    try {
        await page.goto(url);
        await page.waitForFunction(() => window.run && window.crossOriginIsolated);
        const data = JSON.parse(fs.readFileSync(file, 'utf-8'));
        const found = await page.evaluate(([called, given]) => window.run(called, given), [name, data]);
        result = { case: name, passed: true, result: found };
    } catch (error) {
        result = { case: name, passed: false, result: String(error).slice(0, 300) };
    }
    console.log(JSON.stringify(result));
    await page.close();
}
await browser.close();
server.close();
