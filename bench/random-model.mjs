// A model of a case's shape with small random weights, without a float32 copy on the way: 2B parameters in bfloat16 are 4.4 GB.
import { noGrad, randn, scope, skipInit } from '@ivtlr/torch';
import { familyOf } from '../packages/ivtlr/dist/models/registry.js';

/** With `spread` the weights are large enough for varied answers and clear winners. */
export function randomModel({ config, dtype, spread = false, device = 'cpu' }) {
  const model = skipInit(() => familyOf(config, 'case').backbone(config, 'case').make({ dtype, device }));
  noGrad(() =>
    scope(() => {
      const block = randn([1 << 22])
        .mul(spread ? 0.6 : 0.02)
        .to({ dtype, device });
      for (const [name, parameter] of model.module.namedParameters()) {
        // The norms of Chameleon's heads have two dimensions.
        if (parameter.ndim === 1 || /[qk]_norm/.test(name)) parameter.fill_(name.endsWith('bias') ? 0 : 1);
        else
          scope(() => {
            const flat = parameter.view([parameter.numel]);
            const inputs = parameter.numel / parameter.shape[0];
            for (let start = 0; start < flat.numel; start += block.numel) {
              const count = Math.min(block.numel, flat.numel - start);
              flat.narrow(0, start, count).copy_(block.narrow(0, 0, count));
            }
            if (spread && !name.includes('embed_tokens')) parameter.mul_(inputs ** -0.5);
          });
      }
    }),
  );
  return model;
}
