/** What a body of POST /v1/chat/completions may hold. */
import { z } from 'zod';
import { messagesSchema, textSchema } from '../data/chat-messages.ts';
import { schemaMessage } from '../errors.ts';
import { ABLATIONS, latentStepsSchema, MAX_LATENT_STEPS, MAX_PATCHES, swaps } from '../latent/options.ts';
import { MAX_CHOICES } from '../text/prompt.ts';
import { badRequest } from './http-error.ts';

const text = textSchema;
const stop = z.string().min(1).max(1000);

/** Whether an ablation takes latent steps of the same question about another picture, which the request then has. */
export function takesOtherImage(ablation: string | undefined): boolean {
  const { options, lastStep } = ABLATIONS[ablation ?? 'full']!;
  return swaps(options, lastStep);
}

const tokenLists = z.array(z.array(z.int().min(0)).max(MAX_PATCHES)).max(MAX_LATENT_STEPS);

const extension = z.strictObject({
  latents: latentStepsSchema
    .optional()
    .describe('Latent steps before the written answer; default: as the model was trained.'),
  patches: z.int().min(0).max(MAX_PATCHES).optional().describe('Image tokens picked at each latent step.'),
  ablation: z
    .enum(Object.keys(ABLATIONS))
    .optional()
    .describe('What is taken away from the latent steps. Those that end in -swapped need other_image.'),
  other_image: z
    .object({ url: z.string() })
    .optional()
    .describe('Another picture: the same question about it lends its latent steps to ablations that end in -swapped.'),
  positions: z.enum(['sequential', 'mrope']).optional(),
  task: z.string().max(100).optional().describe('Words the prompt as this task does.'),
  choices: z.array(text).max(MAX_CHOICES).optional().describe('Texts of the choices, without letters.'),
  trace: z.enum(['none', 'picks', 'full']).optional().describe('What is said of the latent steps. Default picks.'),
  force: tokenLists.optional().describe('Per latent step, image tokens that are picked in any case.'),
  forbid: tokenLists.optional().describe('Per latent step, image tokens that are never picked.'),
  pick_from: z
    .int()
    .min(1)
    .max(1000)
    .optional()
    .describe('The only picture that latent steps pick from, counted from 1; default: all.'),
});

/** `null` stands for a field that is left out, as clients write it. */
const optional = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined);

export const chatSchema = z.object({
  model: optional(z.string().max(1000)),
  messages: messagesSchema,
  stream: optional(z.boolean()),
  stream_options: optional(z.object({ include_usage: optional(z.boolean()) })),
  max_tokens: optional(z.int().min(1)),
  max_completion_tokens: optional(z.int().min(1)),
  temperature: optional(z.number().min(0).max(2)),
  top_p: optional(z.number().gt(0).max(1)),
  top_k: optional(
    z
      .int()
      .min(-1)
      .max(2 ** 31),
  ),
  min_p: optional(z.number().min(0).max(1)),
  repetition_penalty: optional(z.number().min(0.01).max(100)),
  seed: optional(z.int()),
  stop: optional(z.union([stop, z.array(stop).max(4)])),
  n: optional(z.int().min(1).max(16)),
  logprobs: optional(z.boolean()),
  top_logprobs: optional(z.int().min(0).max(20)),
  user: optional(z.string()),
  ivtlr: optional(extension),
});

export type ParsedChat = z.output<typeof chatSchema>;

/** Fields of OpenAI's API that would change the answer and that are not there, with the values that ask for nothing. */
const MISSING: Record<string, (value: unknown) => boolean> = {
  tools: (value) => Array.isArray(value) && value.length === 0,
  functions: (value) => Array.isArray(value) && value.length === 0,
  tool_choice: (value) => value === 'none' || value === 'auto',
  response_format: (value) => (value as { type?: unknown } | null)?.type === 'text',
  frequency_penalty: (value) => value === 0,
  presence_penalty: (value) => value === 0,
  logit_bias: (value) => typeof value === 'object' && Object.keys(value as object).length === 0,
  audio: () => false,
};

/** @throws HttpError 400 that names the first field which is wrong */
export function parseChat(body: unknown): ParsedChat {
  const result = chatSchema.safeParse(body);
  if (!result.success) {
    const issue = deepest(result.error.issues[0]!);
    const param = issue.path.map(String).join('.');
    const where = param === '' ? 'the body' : param;
    throw badRequest(`${where}: ${schemaMessage(issue.message)}`, param === '' ? null : param);
  }
  for (const [name, asksNothing] of Object.entries(MISSING)) {
    const value = (body as Record<string, unknown>)[name];
    if (value !== undefined && value !== null && !asksNothing(value))
      throw badRequest(`${name} is not supported here; leave it out`, name, 'unsupported_parameter');
  }
  if (result.data.top_logprobs !== undefined && !result.data.logprobs)
    throw badRequest('top_logprobs: needs logprobs to be true', 'top_logprobs');
  return result.data;
}

/** Of a union the mistake of the alternative that got furthest says most. */
function deepest(issue: z.core.$ZodIssue): { path: PropertyKey[]; message: string } {
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return issue;
  const inner = issue.errors.flatMap((issues) => issues.slice(0, 1)).map(deepest);
  const far = inner.reduce((best, other) => (other.path.length > best.path.length ? other : best));
  return far.path.length === 0 ? issue : { path: [...issue.path, ...far.path], message: far.message };
}
