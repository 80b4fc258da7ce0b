/** One sample as a model would get it: what `ivtlr data inspect` shows. */
import { IGNORE, renderPrompt, renderTraining, splitSteps, tokenizeSample } from '../data/render.ts';
import type { Sample } from '../data/sample.ts';
import type { FolderWithoutWeights } from '../engine/folder-rendering.ts';
import { curriculum } from '../latent/curriculum.ts';
import type { RgbImage } from '../vision/image.ts';
import type { TokenLayout } from '../vision/token-views.ts';

export interface InspectOptions {
  task: string;
  stage: number;
  maxLatentStage: number;
  padLatentToMax: boolean;
  maxSteps: number;
  maxTokens?: number;
}

/** A run of neighbouring tokens of one kind. */
export interface TokenRun {
  kind: 'prompt' | 'image' | 'latent' | 'trained';
  tokens: number;
  text: string;
}

export interface InspectedSample {
  id: string;
  question: string;
  choices: string[];
  answer: string;
  meta: Record<string, string>;
  /** All steps, before the stage drops some and before any is too long. */
  steps: string[];
  /** The user's text in training and at inference, without chat template. */
  prompts: { train: string; infer: string };
  stage: number;
  latents: number;
  droppedSteps: number;
  truncatedSteps: number;
  tokens: {
    prompt: number;
    image: number;
    latents: number;
    trained: number;
    total: number;
    steps: number[];
    answer: number;
  };
  images: ({ width: number; height: number } & TokenLayout)[];
  /** The whole row in order; special tokens written out. */
  runs: TokenRun[];
  ids: number[];
  labels: number[];
}

/** @returns the description, and each image as the model sees it, once for each view of it. @throws UserError as rendering and image do */
export async function inspectSample(
  sample: Sample,
  opened: FolderWithoutWeights,
  options: InspectOptions,
): Promise<{ inspected: InspectedSample; images: RgbImage[][] }> {
  const { tokenizer, inputs } = opened;
  const { stage, maxSteps, maxTokens } = options;
  const render = { ...opened.renderOptions(options.task), maxSteps, ...(maxTokens !== undefined && { maxTokens }) };
  const prepared = await Promise.all(sample.images.map((image) => inputs.prepare(image)));
  const layouts = prepared.map((each) => inputs.layout(each));
  const tokenized = await tokenizeSample(sample, layouts, 'train', render);
  const plan = curriculum(stage, options, tokenized.stepIds.length);
  const { ids, labels, latentStart, latentSteps, imageTokens } = renderTraining(tokenized, plan);
  const imageId = tokenizer.tokenToId(render.imageToken);
  const kindAt = (index: number): TokenRun['kind'] => {
    if (labels[index] !== IGNORE) return 'trained';
    if (index >= latentStart && index < latentStart + latentSteps) return 'latent';
    return ids[index] === imageId ? 'image' : 'prompt';
  };
  const runs: TokenRun[] = [];
  for (let start = 0; start < ids.length; ) {
    const kind = kindAt(start);
    let end = start + 1;
    while (end < ids.length && kindAt(end) === kind) end++;
    runs.push({ kind, tokens: end - start, text: tokenizer.decode(ids.slice(start, end), { skipSpecial: false }) });
    start = end;
  }
  const { id, question, choices, answer, meta } = sample;
  const trained = labels.filter((label) => label !== IGNORE).length;
  const inspected: InspectedSample = {
    ...{ id, question, choices, answer, meta },
    steps: splitSteps(sample.rationale, maxSteps),
    prompts: {
      train: renderPrompt(sample, render.profile, 'train'),
      infer: renderPrompt(sample, render.profile, 'infer'),
    },
    stage,
    latents: latentSteps,
    droppedSteps: Math.min(plan.droppedSteps, tokenized.stepIds.length),
    truncatedSteps: tokenized.truncatedSteps,
    tokens: {
      prompt: ids.length - imageTokens - latentSteps - trained,
      image: imageTokens,
      latents: latentSteps,
      trained,
      total: ids.length,
      steps: tokenized.stepIds.map((step) => step.length),
      answer: tokenized.answerIds.length,
    },
    images: prepared.map(({ source }, i) => {
      const { tokenGrid, views } = layouts[i]!;
      return { ...source, tokenGrid, ...(views && { views }) };
    }),
    ...{ runs, ids, labels },
  };
  return { inspected, images: prepared.map(({ image, whole }) => (whole ? [image, whole] : [image])) };
}
