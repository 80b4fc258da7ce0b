/** The ways of answering that the paper compares, as settings of one and the same run. */
import { UserError } from '../errors.ts';
import { ABLATIONS, type Ablation } from '../latent/options.ts';

export interface Mode {
  title: string;
  /** How it differs from the latent steps the model was trained with. */
  ablation: Ablation;
  /** Text put before the first generated token; it counts as part of the answer, which then ends with its first line, and not as a step. */
  answerStart?: string;
}

/** By the name a command takes. A model answers best in the mode it was trained for; the other modes show what that mode adds. */
export const MODES: Readonly<Record<string, Mode>> = {
  'ivt-lr': { title: 'IVT-LR', ablation: { title: 'IVT-LR', options: {} } },
  coconut: { title: 'Coconut', ablation: { title: 'Coconut', options: { latentText: 'on', latentVision: 'off' } } },
  cot: { title: 'chain of thought', ablation: { title: 'chain of thought', latentSteps: 0, options: {} } },
  'no-cot': {
    title: 'no chain of thought',
    ablation: { title: 'no chain of thought', latentSteps: 0, options: {} },
    // Without its last space: tokenizers of words join the space to the letter that follows.
    answerStart: 'Therefore, the answer is',
  },
};

/** One run of `ivtlr eval`. */
export interface PlannedRun {
  /** Row label. */
  name: string;
  ablation: Ablation;
  answerStart?: string;
}

/**
 * The runs that a mode and names of ablations ask for.
 * @throws UserError when an ablation is asked of a mode other than ivt-lr, whose latent steps are the only ones it is defined for
 */
export function planRuns(modeName: string, ablations: readonly string[]): PlannedRun[] {
  const names = ablations.includes('all') ? Object.keys(ABLATIONS) : [...new Set(ablations)];
  if (modeName === 'ivt-lr') return names.map((name) => ({ name: ABLATIONS[name]!.title, ablation: ABLATIONS[name]! }));
  const other = names.find((name) => name !== 'full');
  if (other !== undefined) {
    throw new UserError(
      `--ablation ${other} takes a part of IVT-LR's latent steps away; use it without --mode ${modeName}`,
    );
  }
  const { title, ablation, answerStart } = MODES[modeName]!;
  return [{ name: title, ablation, ...(answerStart !== undefined && { answerStart }) }];
}
