/**
 * A Jinja template run with bounds. A template comes with a model from anywhere, and one line of it can ask for a loop of 10^9 rounds, which would
 * take memory until V8 aborts the process.
 */
import { Environment, Interpreter } from '@huggingface/jinja';

/** Steps a template may take in all; an item of a list and every 4096 characters of a text count as one. A usual template takes some hundred. */
const MAX_WORK = 100_000;
/** Characters of one text. */
export const MAX_LENGTH = 2 ** 20;
const MAX_RANGE = 10_000;

/** A text became too long. */
export class TooLongError extends Error {}

/** The part of the package's interpreter used here, whose own types its declarations do not resolve to. */
interface Runner {
  evaluate(statement: unknown, environment: unknown): { value: unknown };
  run(program: unknown): { value: unknown };
}
const BaseInterpreter = Interpreter as unknown as new (environment: Environment) => Runner;

class BoundedInterpreter extends BaseInterpreter {
  #work = 0;

  /** Everything that a template computes passes here. */
  override evaluate(statement: unknown, environment: unknown): { value: unknown } {
    const result = super.evaluate(statement, environment);
    const { value } = result;
    this.#work++;
    if (typeof value === 'string') {
      if (value.length > MAX_LENGTH) throw new TooLongError(`it makes a text of more than ${MAX_LENGTH} characters`);
      this.#work += value.length / 4096;
    } else if (Array.isArray(value)) this.#work += value.length;
    else if (value instanceof Map) this.#work += value.size;
    if (this.#work > MAX_WORK) throw new Error(`it takes more than ${MAX_WORK} steps`);
    return result;
  }
}

/**
 * A parsed template's text with these variables, and with the names that chat templates may count on.
 * @throws Error what the template raises, or when it goes beyond the bounds
 */
export function renderBounded(program: unknown, variables: Readonly<Record<string, unknown>>): string {
  const environment = new Environment();
  const constants = { true: true, True: true, false: false, False: false, none: null, None: null };
  const functions = { range: boundedRange, raise_exception: raise, strftime_now: now };
  for (const [name, value] of Object.entries({ ...constants, ...functions, ...variables }))
    environment.set(name, value);
  return String(new BoundedInterpreter(environment).run(program).value);
}

/** Python's range. */
function boundedRange(first: number, last?: number, step = 1): number[] {
  const [start, stop] = last === undefined ? [0, first] : [first, last];
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (!Number.isInteger(count)) throw new Error('range() wants whole numbers, and a step other than 0');
  if (count > MAX_RANGE) throw new Error(`it loops over a range of ${count}, and ${MAX_RANGE} is the most`);
  return Array.from({ length: count }, (_, index) => start + index * step);
}

function raise(message: unknown): never {
  throw new Error(String(message));
}

/** Python's strftime of this moment, for the codes that templates use. */
function now(format: string): string {
  const date = new Date();
  const two = (value: number) => String(value).padStart(2, '0');
  const month = (length: 'long' | 'short') => date.toLocaleString('en-US', { month: length });
  const codes: Record<string, string> = {
    ...{ Y: String(date.getFullYear()), m: two(date.getMonth() + 1), d: two(date.getDate()) },
    ...{ B: month('long'), b: month('short'), H: two(date.getHours()), M: two(date.getMinutes()) },
    ...{ S: two(date.getSeconds()), '%': '%' },
  };
  return format.replace(/%(.)/g, (all, code: string) => codes[code] ?? all);
}
