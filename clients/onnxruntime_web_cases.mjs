// What onnxruntime-web is tried with in a browser: the graph of a directory, fed with PyTorch's inputs.
import { same } from './same.mjs';

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
        return same(shared.flatMap((output) => [...found[output].data]), shared.flatMap((output) => c.outputs[output]));
    };
    return { vit: outputs, clip: outputs };
}
