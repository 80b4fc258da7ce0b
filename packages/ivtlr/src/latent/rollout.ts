/**
 * The latent steps of a training batch: run what is pending, take the last hidden state (latent text) and the image tokens it attends to most (latent
 * vision), push both as the next input.
 * Shapes: B batch, K patches, D hidden size, I width of an input row, N image tokens, T all positions so far.
 */
import { cat, noGrad, stack, type Tensor, zeros } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import type { AttentionScores } from '../models/types.ts';
import { atColumns } from './image-columns.ts';
import type { LatentOptions } from './options.ts';
import {
  checkLatentOptions,
  insertedRows,
  latentVision,
  nothingToInsert,
  type Picked,
  pickImageTokens,
  planPicks,
} from './select.ts';
import type { Sequence } from './sequence.ts';

export interface LatentStep {
  /** Per row: image-token indices in the order they were inserted. */
  picked: number[][];
  /** (B, N) float32: attention probabilities at the image tokens; null without images. */
  imageScores: Tensor | null;
  /** (B, T) float32: the whole row of attention probabilities. */
  scores: Tensor;
  /** (B, 1, D): the last hidden state, which the latent text is made of. It is what the step before has found out. */
  hidden: Tensor;
  /** The rows that were inserted, (B, K+1, I) for the full method. */
  inserted: Tensor;
  /** Which of them count, one a row and column; null when all do. */
  mask: number[][] | null;
}

export interface RolloutMode {
  /** Cut the graph at what is inserted (`detached`). */
  detach: boolean;
  /** `graph` when the scores are trained. */
  attentionScores: Exclude<AttentionScores, 'off'>;
}

export class Rollout {
  readonly sequence: Sequence;
  readonly #options: LatentOptions;
  readonly #mode: RolloutMode;
  /** Per row: one byte an image token, 1 for those that were picked. */
  readonly #used: Uint8Array[];
  #steps = 0;

  constructor(sequence: Sequence, options: LatentOptions, mode: RolloutMode) {
    checkLatentOptions(options);
    this.sequence = sequence;
    this.#options = options;
    this.#mode = mode;
    this.#used = sequence.prompt.imageColumns.map(({ length }) => new Uint8Array(length));
  }

  /** Runs what is pending and chooses what comes next; `insert` pushes it. */
  step(): LatentStep {
    const { prompt } = this.sequence;
    const { hidden, scores } = this.sequence.run(this.#mode.attentionScores);
    const rows = hidden.shape[1]!;
    const h_B1D = hidden.narrow(1, rows - 1, 1);
    const imageScores = prompt.images ? this.#imageScores(scores!) : null;
    const wantsVision = this.#options.latentVision !== 'off' && imageScores !== null;
    const picks = wantsVision ? this.#pick(imageScores.detach()) : this.#used.map(() => ({ indices: [], index: null }));
    const picked = picks.map(({ indices }) => indices);
    const K = Math.max(...picked.map((row) => row.length));
    const withText = this.#options.latentText !== 'off';
    if (!withText && picked.some((row) => row.length === 0)) throw nothingToInsert(this.#steps);
    // Rows with fewer patches are padded in front: the last inserted row is what the next step reads, so it must count.
    const vision = K > 0 ? this.#latentVision(picks, K) : null;
    const h_B1I = this.sequence.model.asInputs(h_B1D);
    const text = this.#options.latentText === 'swap' ? h_B1I.roll(1, 0) : h_B1I;
    let inserted = insertedRows(vision, text, this.#steps, this.#options);
    if (this.#mode.detach) inserted = inserted.detach();
    // A row gets as many swapped patches as the row they come from has picked.
    const inserts = this.#options.latentVision === 'swap' ? picked.map((_, b) => picked.at(b - 1)!) : picked;
    const mask = picked.some((row) => row.length < K)
      ? inserts.map((row) => [
          ...Array.from({ length: K }, (_, k) => (k < K - row.length ? 0 : 1)),
          ...(withText ? [1] : []),
        ])
      : null;
    this.#steps++;
    return { picked, imageScores, scores: scores!, hidden: h_B1D, inserted, mask };
  }

  insert({ inserted, mask }: Pick<LatentStep, 'inserted' | 'mask'>): void {
    this.sequence.push(inserted, { mask, latent: true });
  }

  /** T steps at once, each inserted. */
  run(latentSteps: number): LatentStep[] {
    return Array.from({ length: latentSteps }, () => {
      const step = this.step();
      this.insert(step);
      return step;
    });
  }

  /** (B, N): columns of the image tokens; zero beyond a row's own. */
  #imageScores(scores_BT: Tensor): Tensor {
    const { imageColumns } = this.sequence.prompt;
    const longest = Math.max(...imageColumns.map(({ length }) => length));
    return stack(
      imageColumns.map((columns, b) => {
        const own = atColumns(scores_BT.select(0, b), columns);
        return columns.length === longest ? own : ops.constant_pad_nd(own, [0, longest - columns.length]);
      }),
    );
  }

  #pick(scores_BN: Tensor): Picked[] {
    const plans = this.#used.map((used) => planPicks(used, this.#steps, this.#options));
    return noGrad(() =>
      pickImageTokens(
        plans.map((plan, b) => ({ plan, scores_N: scores_BN.select(0, b).narrow(0, 0, plan.used.length) })),
      ),
    );
  }

  /** (B, K, I): input rows of the picked image tokens, not hidden states. */
  #latentVision(picks: readonly Picked[], K: number): Tensor {
    const images = this.sequence.prompt.images!;
    const [B, , I] = images.shape as [number, number, number];
    const rows = picks.map(({ indices, index }) => {
      const missing = K - indices.length;
      const pads = () => zeros([missing], { dtype: 'int64', device: images.device });
      return missing === 0 ? index! : index ? cat([pads(), index]) : pads();
    });
    const tokens = images.gather(1, stack(rows).view([B, K, 1]).expand([B, K, I]));
    const z = latentVision(tokens, this.sequence.model.hiddenSize, this.#options);
    return this.#options.latentVision === 'swap' ? z.roll(1, 0) : z;
  }
}
