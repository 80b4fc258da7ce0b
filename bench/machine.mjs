// What the machine can do at best, for the floors that the benches print.
import { cudaSynchronize, empty, inferenceMode, linear, randn, scope } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';

/** Best of several: seconds that `body` takes, on a GPU until it has done it. */
export function best(rounds, body, device = 'cpu') {
  const wait = () => device !== 'cpu' && cudaSynchronize();
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < rounds; i++) {
    wait();
    const start = performance.now();
    scope(body);
    wait();
    least = Math.min(least, (performance.now() - start) / 1000);
  }
  return least;
}

/** GFLOP/s of products of the shapes [rows, inputs, outputs], by name. */
export function productRates(dtype, shapes, device = 'cpu') {
  const rates = {};
  inferenceMode(() => {
    for (const [rows, inputs, outputs] of shapes) {
      scope(() => {
        const x = randn([rows, inputs]).to({ dtype, device });
        const count = Math.max(2, Math.min(8, Math.floor(2e8 / (inputs * outputs))));
        const weights = Array.from({ length: count }, () => randn([outputs, inputs]).to({ dtype, device }));
        const seconds = best(
          8,
          () => {
            for (const weight of weights) ops.linear(x, weight);
          },
          device,
        );
        rates[`${rows}x${inputs}x${outputs}`] = (count * 2 * rows * inputs * outputs) / seconds / 1e9;
      });
    }
  });
  return rates;
}

/** GB/s of reading memory far larger than the caches, by way of reading. */
export function bandwidths(dtype, device = 'cpu') {
  return inferenceMode(() =>
    scope(() => {
      const buffer = empty([3 << 27], { dtype: 'float32', device }).fill_(1);
      const bytes = buffer.numel * 4;
      const half = buffer.numel / 2;
      // One row against a weight of a gigabyte and a half does nothing but read it, faster than a sum does.
      const matrix = empty([bytes / 1024 / (dtype === 'float32' ? 4 : 2), 1024], { dtype, device }).fill_(1);
      const row = randn([1, 1024]).to({ dtype, device });
      return {
        linear: bytes / best(4, () => linear(row, matrix), device) / 1e9,
        sum: bytes / best(4, () => ops.sum(buffer), device) / 1e9,
        max: bytes / best(4, () => ops.max(buffer), device) / 1e9,
        copy: bytes / best(3, () => buffer.narrow(0, 0, half).copy_(buffer.narrow(0, half, half)), device) / 1e9,
      };
    }),
  );
}
