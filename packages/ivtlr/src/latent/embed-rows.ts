/** Prompts as they enter the decoder, row by row. Shapes: P prompt tokens, N image tokens, D hidden size, A position axes. */
import { cat, keep, type Tensor } from '@ivtlr/torch';
import * as ops from '@ivtlr/torch/ops';
import { UserError } from '../errors.ts';
import { indexTensor } from '../models/common/index-tensor.ts';
import type { VisionLanguageModel } from '../models/types.ts';
import { areTogether, atColumns, tokensOf } from './image-columns.ts';
import type { ImagesAhead } from './images-ahead.ts';
import type { EncodedImages } from './kept-prefixes.ts';
import { positionsOf, type Row } from './row.ts';

/**
 * Gives every row its first input: the embedded prompt (P, D) with its image tokens filled in, their positions (A, P), and what it reads after its
 * latent steps. Call inside a scope and inference mode.
 * @param ahead pictures whose encoding was begun
 * @param known pictures that were encoded before; those that are encoded now are added
 * @throws RangeError when a prompt's image tokens are not its pictures'
 * @throws UserError when the model has fewer positions than a row needs before its first written token
 */
export function embedRows(
  model: VisionLanguageModel,
  rows: readonly Row[],
  known: EncodedImages | null | undefined = null,
  ahead: ImagesAhead | null = null,
): void {
  // Tokens that stand after the latent slots are run after the latent steps; without latent steps they are part of the prompt.
  const prompts = rows.map(({ request: { promptIds, latentSteps, afterLatentIds } }) =>
    latentSteps === 0 ? [...promptIds, ...afterLatentIds] : promptIds,
  );
  const behind = rows.map(({ request }) => (request.latentSteps === 0 ? [] : request.afterLatentIds));
  for (const row of rows) check(model, row);
  const encoded = encodeImages(model, rows, known, ahead);
  const embedded = model.embed(indexTensor([...prompts, ...behind].flat(), model.device).unsqueeze(0)).select(0, 0);
  let start = 0;
  rows.forEach((row, b) => {
    const { images, options } = row.request;
    const ids = prompts[b]!;
    const own = embedded.narrow(0, start, ids.length);
    start += ids.length;
    if (images.length > 0) {
      const tokens_ND = cat(encoded.splice(0, images.length), 0).to(own.dtype);
      if (areTogether(row.imageColumns)) atColumns(own, row.imageColumns).copy_(tokens_ND);
      else ops.index_copy_(own, 0, indexTensor(row.imageColumns, own.device), tokens_ND);
      row.images = keep(tokens_ND.slice(0));
    }
    const { positions, next } = model.promptPositions([ids], [ids.map(() => 1)], [images], options.positions);
    row.pending = keep(own);
    row.promptPositions = keep(positions.select(1, 0));
    row.next = next[0]!;
  });
  rows.forEach((row, b) => {
    const { length } = behind[b]!;
    // A copy, since a view would hold the memory of all prompts until the latent steps are done.
    if (length > 0) row.behind = keep(embedded.narrow(0, start, length).clone());
    start += length;
  });
}

/** Token embeddings of all rows' pictures in order, (N, D) each. */
function encodeImages(
  model: VisionLanguageModel,
  rows: readonly Row[],
  known: EncodedImages | null | undefined,
  ahead: ImagesAhead | null,
): Tensor[] {
  const pictures = rows.flatMap(({ request: { images, imageKeys } }) =>
    images.map((image, i) => ({ image, key: imageKeys?.[i] })),
  );
  const found = pictures.map(({ image, key }) => {
    const kept = known?.get(key) ?? null;
    if (kept) return kept;
    const encoded = ahead?.get(image) ?? null;
    if (encoded && key !== undefined) known?.put(key, encoded);
    return encoded;
  });
  const fresh = pictures.filter((_, i) => found[i] === null);
  const encoded = fresh.length > 0 ? model.encodeImages(fresh.map(({ image }) => image)) : [];
  fresh.forEach(({ key }, i) => {
    if (key !== undefined) known?.put(key, encoded[i]!);
  });
  return found.map((image) => image ?? encoded.shift()!);
}

function check(model: VisionLanguageModel, row: Row): void {
  const { images, options } = row.request;
  const found = row.imageColumns.length;
  const tokens = tokensOf(images);
  if (found !== tokens) throw new RangeError(`the prompt has ${found} image tokens, its images ${tokens}`);
  requireRoomToAnswer(positionsOf(row.request) - options.maxNewTokens, model.maxPositions);
}

/** @throws UserError when a row that needs so many positions before its first written token has none left for it */
export function requireRoomToAnswer(needed: number, maxPositions: number): void {
  if (needed < maxPositions) return;
  throw new UserError(
    `the prompt takes ${needed} positions with its images and latent steps, but the model has ${maxPositions} (max_position_embeddings): use a shorter text, smaller images or fewer patches`,
  );
}
