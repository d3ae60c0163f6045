import { env, pipeline } from '@huggingface/transformers';

env.allowRemoteModels = false;
env.localModelPath = './';
const embed = await pipeline('feature-extraction', 'minilm-js', { dtype: 'fp32' });
console.log(await embed('A man is eating food.', { pooling: 'mean', normalize: true }));
