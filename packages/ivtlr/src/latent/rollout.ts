/**
 * The latent steps: run what is pending, take the last hidden state (latent text) and the image tokens it attends to most (latent
 * vision), push both as the next input.
 * Shapes: B batch, K patches, D hidden size, N image tokens, T all positions so far.
 */
import { cat, stack, type Tensor, tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import type { TapMode } from '../models/types.ts';
import type { LatentOptions } from './options.ts';
import { selectPatches, Used } from './select.ts';
import type { Sequence } from './sequence.ts';

export interface LatentStep {
  /** Per row: image-token indices in the order they were inserted. */
  picked: number[][];
  /** (B, N) float32: attention probabilities at the image tokens; null without images. */
  imageScores: Tensor | null;
  /** (B, T) float32: the whole row of attention probabilities. */
  scores: Tensor;
  /** The rows that were inserted, (B, K+1, D) for the full method. */
  inserted: Tensor;
  /** Which of them count, one a row and column; null when all do. */
  mask: number[][] | null;
}

export interface RolloutMode {
  /** Cut the graph at what is inserted (`detached`). */
  detach: boolean;
  /** `graph` when the scores are trained. */
  tap: Exclude<TapMode, 'off'>;
}

export class Rollout {
  readonly sequence: Sequence;
  readonly #options: LatentOptions;
  readonly #mode: RolloutMode;
  readonly #used: Used;
  #steps = 0;

  constructor(sequence: Sequence, options: LatentOptions, mode: RolloutMode) {
    if (options.latentText === 'off' && options.latentVision === 'off')
      throw new UserError(
        'latentText and latentVision are both off, so a latent step would insert nothing: use zero latent steps instead',
      );
    this.sequence = sequence;
    this.#options = options;
    this.#mode = mode;
    this.#used = new Used(sequence.prompt.imageTokens);
  }

  /** Runs what is pending and chooses what comes next; `insert` pushes it. */
  step(): LatentStep {
    const { prompt } = this.sequence;
    const { hidden, scores } = this.sequence.run(this.#mode.tap);
    const rows = hidden.shape[1]!;
    const h_B1D = hidden.narrow(1, rows - 1, 1);
    const imageScores = prompt.images ? this.#imageScores(scores!) : null;
    const wantsVision = this.#options.latentVision !== 'off' && imageScores !== null;
    const picked = wantsVision
      ? selectPatches(imageScores.detach(), this.#used, this.#steps, this.#options)
      : prompt.imageTokens.map(() => []);
    const K = Math.max(...picked.map((row) => row.length));
    const withText = this.#options.latentText !== 'off';
    // Ragged rows are padded in front: the last inserted row is what the next step reads, so it must count.
    if (!withText && picked.some((row) => row.length === 0))
      throw new UserError(
        `latent step ${this.#steps + 1} would insert nothing: latentText is off and no image token is left to pick, so use fewer latent steps or patches`,
      );
    const parts: Tensor[] = [];
    if (K > 0) parts.push(this.#latentVision(picked, K));
    if (withText) parts.push(this.#latentText(h_B1D));
    let inserted = parts.length === 1 ? parts[0]! : cat(parts, 1);
    if (this.#mode.detach) inserted = inserted.detach();
    // Swapped patches come with their own row's count.
    const inserts = this.#options.latentVision === 'swap' ? picked.map((_, b) => picked.at(b - 1)!) : picked;
    const mask = picked.some((row) => row.length < K)
      ? inserts.map((row) => [
          ...Array.from({ length: K }, (_, k) => (k < K - row.length ? 0 : 1)),
          ...(withText ? [1] : []),
        ])
      : null;
    this.#steps++;
    return { picked, imageScores, scores: scores!, inserted, mask };
  }

  insert({ inserted, mask }: Pick<LatentStep, 'inserted' | 'mask'>): void {
    this.sequence.push(inserted, { mask, latent: true });
  }

  /** T steps at once, each inserted. */
  run(latents: number): LatentStep[] {
    return Array.from({ length: latents }, () => {
      const step = this.step();
      this.insert(step);
      return step;
    });
  }

  /** (B, N): columns of the image tokens; zero beyond a row's own. */
  #imageScores(scores_BT: Tensor): Tensor {
    const { imageStart, imageTokens } = this.sequence.prompt;
    const longest = Math.max(...imageTokens);
    if (imageTokens.every((count, b) => count === longest && imageStart[b] === imageStart[0]))
      return scores_BT.narrow(1, imageStart[0]!, longest);
    return stack(
      imageTokens.map((count, b) => {
        const own = scores_BT.select(0, b).narrow(0, Math.max(0, imageStart[b]!), count);
        return count === longest ? own : ops.constant_pad_nd(own, [0, longest - count]);
      }),
    );
  }

  /** (B, K, D): input embeddings of the picked image tokens, not hidden states. */
  #latentVision(picked: readonly number[][], K: number): Tensor {
    const images = this.sequence.prompt.images!;
    const [B, , D] = images.shape as [number, number, number];
    const filled = picked.flatMap((row) => [...new Array<number>(K - row.length).fill(0), ...row].map(BigInt));
    const index = tensor(BigInt64Array.from(filled), { shape: [B, K, 1] }).to({ device: images.device });
    const z = images.gather(1, index.expand([B, K, D]));
    if (this.#options.latentVision === 'zero') return ops.zeros_like(z);
    return this.#options.latentVision === 'swap' ? z.roll(1, 0) : z;
  }

  #latentText(h_B1D: Tensor): Tensor {
    if (this.#options.latentText === 'zero') return ops.zeros_like(h_B1D);
    return this.#options.latentText === 'swap' ? h_B1D.roll(1, 0) : h_B1D;
  }
}
