// One side of `python -m benchmarks.decoding`: llama.cpp, by its Node binding, on a GGUF file.
// node llama_cpp.mjs MODULES FILE THREADS PROMPT NEW
import {createInterface} from "node:readline";

const [, , modules, file, threads, prompt, count] = process.argv;
const {getLlama} = await import(`${modules}/node_modules/node-llama-cpp/dist/index.js`);
const llama = await getLlama({gpu: false, build: "never", maxThreads: +threads, progressLogs: false, logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const size = +prompt + +count;
const context = await model.createContext({contextSize: size, batchSize: +prompt, threads: +threads});
const sequence = context.getSequence();

async function measure() {
    await sequence.clearHistory();
    const started = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(Array(+prompt - 1).fill(1));
    const seconds = [];
    let before = started;
    // The first token needs the last one of the prompt, whose time counts for the prompt.
    for await (const _ of sequence.evaluate([1], {yieldEogToken: true})) {
        seconds.push((performance.now() - before) / 1000);
        before = performance.now();
        if (seconds.length === +count) break;
    }
    const [prefill, ...steps] = seconds;
    return {prefill, step: steps.sort((a, b) => a - b)[steps.length >> 1]};
}

await measure();
console.log("ready");
for await (const _ of createInterface({input: process.stdin})) console.log(JSON.stringify(await measure()));
