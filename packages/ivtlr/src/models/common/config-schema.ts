/** What the config.json readers of the families share: checking, and bounds that no published model comes near. */
import { z } from 'zod';
import { schemaMessage, UserError } from '../../errors.ts';

/** A whole number from 1 to `most`. Without the bounds a damaged or hostile file would ask for memory or loops without end. */
const count = (most: number) => z.int().positive().max(most);

export const layerCount = count(1000);
/** Channels, hidden sizes and heads. */
export const width = count(1 << 20);
export const vocabularySize = count(1 << 24);
export const positionCount = count(1 << 20);
export const tokenId = z
  .int()
  .min(0)
  .max(1 << 24);
export const normEps = z.number().positive().max(1);

/** @throws UserError naming the file and the first key that is missing or wrong; `where` is the path of `value` in the file */
export function checkConfig<T extends z.ZodType>(schema: T, value: unknown, source: string, where = ''): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = [where, ...issue.path].filter((part) => part !== '').join('.');
  throw new UserError(`${source}: ${path === '' ? '' : `${path}: `}${schemaMessage(issue.message)}`);
}

const quantizationSchema = z.object({ quant_method: z.string().optional() });

/** @throws UserError for a model whose stored weights are not the numbers themselves */
export function refuseQuantized(json: unknown, source: string): void {
  const { quantization_config: top, text_config: text } = json as {
    quantization_config?: unknown;
    text_config?: unknown;
  };
  const found = top ?? (text as { quantization_config?: unknown } | null | undefined)?.quantization_config;
  if (found === undefined || found === null) return;
  const method = quantizationSchema.safeParse(found).data?.quant_method;
  throw new UserError(
    `${source}: the weights are quantised (${method ?? 'quantization_config'}), which is not supported: use the unquantised model, or save this one dequantised (in transformers: model.dequantize(), then save_pretrained)`,
  );
}
