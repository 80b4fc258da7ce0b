/** What the model looked at, in the words of the protocol. */
import type { StepTrace } from '../latent/trace.ts';
import type { ImageSource } from '../vision/image.ts';
import type { SeenImage, SeenStep } from './protocol.ts';

export function seenImage(tokenGrid: readonly [number, number], { width, height, shown }: ImageSource): SeenImage {
  const { left, top, width: w, height: h } = shown ?? { left: 0, top: 0, width, height };
  return { tokenGrid, width, height, crop: { x: left, y: top, width: w, height: h } };
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
