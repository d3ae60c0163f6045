// Compare numbers with PyTorch's.
const TOLERANCE = 1e-4;

export function same(found, expected) {
    const largest = expected.reduce((most, value, index) => Math.max(most, Math.abs(Number(found[index]) - value)), 0);
    if (!(largest <= TOLERANCE)) throw new Error(`differs by ${largest}`);
    return largest.toExponential(0);
}
