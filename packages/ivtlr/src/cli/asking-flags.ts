/** Flags of every command that asks a model. Loads nothing native, so that --help is instant. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { LoadedModel, OpenModelOptions, ReasoningSettings } from '../engine/loaded-model.ts';
import { PROFILES, type ProfileName } from '../text/prompt.ts';
import { IMAGE_SIZE } from '../vision/resize.ts';
import { MAX, newTokenCount, threadCount, wholeNumberWithin } from './number-flags.ts';

export interface AskingFlags {
  profile?: ProfileName;
  positions?: 'sequential' | 'mrope';
  imageSize?: string;
  patches?: number;
  maxNewTokens: number;
  threads?: number;
  dtype?: 'float32' | 'bfloat16' | 'float16';
  device: string;
  /** False with --no-merge. */
  merge: boolean;
  graphs: 'auto' | 'off';
}

/** For a folder without ivtlr.json the defaults are those of its makers. */
export function addAskingFlags(command: Command): Command {
  return command
    .addOption(profileOption())
    .addOption(
      new Option(
        '--positions <kind>',
        'how image tokens are numbered (default: as trained; mrope for a Qwen2-VL that was not taught latent steps)',
      ).choices(['sequential', 'mrope']),
    )
    .addOption(imageSizeOption())
    .option(
      '--patches <n>',
      'image tokens picked at each latent step (default: as trained; else 32, Chameleon 64)',
      wholeNumberWithin(0, MAX.patches),
    )
    .option('--max-new-tokens <n>', 'longest answer', newTokenCount, 512)
    .option('--threads <n>', 'CPU threads', threadCount)
    .addOption(new Option('--dtype <name>', 'default: as stored').choices(['float32', 'bfloat16', 'float16']))
    .option('--device <name>', 'auto (a GPU if one works, else the CPU), cpu, cuda or cuda:N', 'auto')
    .option('--no-merge', 'leave a LoRA adapter beside the weights of its base instead of adding it to them')
    .addOption(
      new Option('--graphs <when>', 'record passes of tokens and latent steps as CUDA graphs (auto: on a GPU)')
        .choices(['auto', 'off'])
        .default('auto'),
    );
}

/** @param otherwise what a model without settings of its own is asked as */
export function profileOption(otherwise = 'plain'): Option {
  return new Option(
    '--profile <name>',
    `prompts and image size: as the official code has them, ours, or those of a model that was not taught latent steps (default: as stored with the model; else ${otherwise})`,
  ).choices(PROFILES);
}

export function imageSizeOption(): Option {
  return new Option(
    '--image-size <size>',
    "native, or what every image is resized to, such as 280x280 (default: the profile's)",
  ).argParser((text: string) => {
    if (!IMAGE_SIZE.test(text))
      throw new InvalidArgumentError('It should be native, or width and height in pixels, such as 280x280.');
    return text;
  });
}

/** What the flags change of a model's stored settings. */
export function settingsFromFlags(flags: Partial<AskingFlags>): Partial<ReasoningSettings> {
  const { profile, positions, imageSize, patches } = flags;
  return {
    ...(profile !== undefined && { profile }),
    ...(positions !== undefined && { positions }),
    ...(imageSize !== undefined && { imageSize }),
    ...(patches !== undefined && { patches }),
  };
}

/** How the flags say that a model is opened, beside its place. */
export function openingFromFlags(flags: AskingFlags): Pick<OpenModelOptions, 'mergeAdapters' | 'graphs'> & {
  settings: Partial<ReasoningSettings>;
} {
  return { settings: settingsFromFlags(flags), mergeAdapters: flags.merge, graphs: flags.graphs };
}

/** How a model was asked, for JSON. */
export function askedAs(
  { settings, inputs }: Pick<LoadedModel, 'settings' | 'inputs'>,
  latentSteps = settings.latents,
): Record<string, unknown> {
  const { profile, positions, patches } = settings;
  return { profile, positions, imageSize: inputs.imageSize, resize: inputs.resize, patches, latents: latentSteps };
}

/**
 * Says on stderr when latent steps are asked of a model that is not known to have learned them.
 * @param folder of the model, which may have been named by its name on the hub
 */
export function noteUntrainedLatentSteps(
  model: string,
  folder: string,
  { settings }: Pick<LoadedModel, 'settings'>,
  latentSteps = settings.latents,
): void {
  if (settings.profile !== 'plain' || latentSteps === 0 || existsSync(join(folder, 'ivtlr.json'))) return;
  process.stderr.write(
    `note: ${model} has no ivtlr.json, so nothing says that it was taught latent steps; its ${latentSteps} will mean little to it\n`,
  );
}
