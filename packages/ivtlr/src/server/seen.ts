/** What the model looked at, in the words of the protocol. */
import type { TokenLogprobs } from '../latent/next-token.ts';
import type { StepTrace } from '../latent/trace.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import type { ImageSource } from '../vision/image.ts';
import { type TokenLayout, tokenCount } from '../vision/token-views.ts';
import type { SeenImage, SeenPicture, SeenStep, TokenLogprob } from './protocol.ts';

/** Of each picture where its tokens begin among all of them, and how they lie on it. */
export function seenPictures(images: readonly (TokenLayout & { source: ImageSource })[]): SeenPicture[] {
  let firstToken = 0;
  return images.map((image) => {
    const seen = { firstToken, ...seenImage(image, image.source) };
    firstToken += tokenCount(image);
    return seen;
  });
}

function seenImage({ tokenGrid, views }: TokenLayout, { width, height, shown }: ImageSource): SeenImage {
  const { left, top, width: w, height: h } = shown ?? { left: 0, top: 0, width, height };
  return { tokenGrid, ...(views && { views }), width, height, crop: { x: left, y: top, width: w, height: h } };
}

/** @param seconds since the step before */
export function seenStep(
  kind: SeenStep['kind'],
  { step, picked, trace }: { step: number; picked: readonly number[]; trace: StepTrace | null },
  seconds: number,
): SeenStep {
  return {
    ...{ step, kind, picked },
    pickedScores: trace?.pickedScores ?? null,
    scores: trace?.scores ?? null,
    attentionRatio: finite(trace?.attentionRatio),
    focus: finite(trace?.focus),
    seconds,
  };
}

/** JSON has no infinities. */
function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}

/** Stands for tokens that could not come at all, since JSON has no infinities. */
const IMPOSSIBLE = -9999;

/**
 * Of one token; of a special one, which is no text, nothing. The tokens of an answer joined are its text, and so are their bytes.
 * @param previous token of the answer, beside which decoders may write a space; null before the first
 */
export function seenLogprobs(
  { id, logprob, top }: TokenLogprobs,
  tokenizer: Pick<Tokenizer, 'decode' | 'isAdded' | 'bytesOfToken'>,
  previous: number | null,
): TokenLogprob[] {
  if (tokenizer.isAdded(id) && tokenizer.decode([id]) === '') return [];
  const one = (id: number, value: number) => {
    const token = textBeside(id, previous, tokenizer);
    // A token may be a part of a character, which then has no text of its own.
    const bytes = tokenizer.bytesOfToken(id) ?? (token.includes('\ufffd') ? null : [...Buffer.from(token)]);
    return { token, logprob: Number.isFinite(value) ? value : IMPOSSIBLE, bytes };
  };
  return [{ ...one(id, logprob), top_logprobs: top.map(({ id, logprob }) => one(id, logprob)) }];
}

/** What a token adds to the text after the one before it. */
function textBeside(id: number, previous: number | null, tokenizer: Pick<Tokenizer, 'decode' | 'isAdded'>): string {
  const decode = (ids: number[]) => tokenizer.decode(ids, { skipSpecial: false });
  if (previous === null || tokenizer.isAdded(id)) return decode([id]);
  const before = decode([previous]);
  const both = decode([previous, id]);
  return !before.includes('\ufffd') && both.startsWith(before) ? both.slice(before.length) : decode([id]);
}
