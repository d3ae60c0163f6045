// What onnxruntime-web is tried with in a browser: the graph of a directory, fed with PyTorch's inputs.
const TOLERANCE = 1e-4;

export function cases(ort) {
    const outputs = async (name, c) => {
        const session = await ort.InferenceSession.create(`/exports/${name}/model.onnx`);
        const feed = Object.fromEntries(session.inputNames.map((input) => {
            const { type, shape, data } = c.inputs[input];
            const values = type === 'int64' ? BigInt64Array.from(data.map(BigInt)) : Float32Array.from(data);
            return [input, new ort.Tensor(type, values, shape)];
        }));
        const found = await session.run(feed);
        const shared = session.outputNames.filter((output) => output in c.outputs);
        if (!shared.length) throw new Error(`outputs ${session.outputNames}`);
        const differences = shared.flatMap((output) => c.outputs[output].map((value, i) => Math.abs(found[output].data[i] - value)));
        const largest = differences.reduce((a, b) => Math.max(a, b), 0);
        if (!(largest <= TOLERANCE)) throw new Error(`differs by ${largest}`);
        return largest.toExponential(0);
    };
    return { vit: outputs, clip: outputs };
}
