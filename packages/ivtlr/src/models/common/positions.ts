/** Positions of prompts whose tokens all count alike. Shapes: B batch, S sequence. */
import { fromBytes, toDevice } from '@ivtlr/torch';
import type { PromptPositions } from '../types.ts';

/** 0, 1, 2 .. for every token that counts, 0 on pads: (1, B, S), what the official IVT-LR code passes. */
export function sequentialPositions(mask: readonly (readonly number[])[], device: string): PromptPositions {
  const S = mask[0]!.length;
  const flat = new BigInt64Array(mask.length * S);
  const next = mask.map((row, b) => {
    let at = 0;
    for (let s = 0; s < S; s++) if (row[s]) flat[b * S + s] = BigInt(at++);
    return at;
  });
  const positions = fromBytes(new Uint8Array(flat.buffer), 'int64', [1, mask.length, S]);
  return { positions: toDevice(positions, device), next };
}
