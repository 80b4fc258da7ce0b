/** What answering will need in memory at least, worked out before it is taken. */
import { availableMemory, scope } from '@ivtlr/torch';
import { UserError } from '../errors.ts';
import type { LoadedModel } from './loaded-model.ts';

export interface AnswerNeeds {
  /** Questions answered together. */
  rows: number;
  /** Default: as the model was trained. */
  latentSteps?: number | undefined;
  patches?: number | undefined;
  maxNewTokens: number;
}

/**
 * Bytes of the keys and values of answers that use all their latent steps and tokens. Prompts come on top, which are known only when the images
 * are.
 */
export function answerBytes({ model, settings }: Pick<LoadedModel, 'model' | 'settings'>, needs: AnswerNeeds): number {
  const { rows, latentSteps = settings.latents, patches = settings.patches, maxNewTokens } = needs;
  const bytesPerPosition = scope(() => {
    const cache = model.newSlotCache(1, 1);
    try {
      return cache.bytes;
    } finally {
      cache.dispose();
    }
  });
  return rows * (latentSteps * (patches + 1) + maxNewTokens) * bytesPerPosition;
}

/** @throws UserError when the model's device has not the memory for it */
export function requireRoomForAnswers(
  opened: Pick<LoadedModel, 'model' | 'settings'>,
  needs: AnswerNeeds,
  available = availableMemory(opened.model.device),
): void {
  const bytes = answerBytes(opened, needs);
  if (bytes <= available) return;
  const gibibytes = (value: number) => `${(value / 2 ** 30).toFixed(1)} GiB`;
  throw new UserError(
    `${needs.rows} answers at a time of up to ${needs.maxNewTokens} tokens need ${gibibytes(bytes)} for keys and values, but ${gibibytes(available)} are free; make --batch, --latents, --patches or --max-new-tokens smaller`,
  );
}
