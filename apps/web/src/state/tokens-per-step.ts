/** Image tokens chosen for each latent step, as the address has them: `0:5,6;2:1` is tokens 5 and 6 in step 0 and token 1 in step 2. */

export type TokensPerStep = readonly (readonly number[])[];

export function parseTokensPerStep(text: string | null): TokensPerStep {
  const steps: number[][] = [];
  for (const part of (text ?? '').split(';')) {
    const match = /^(\d{1,3}):(\d+(?:,\d+)*)$/.exec(part);
    if (!match) continue;
    const step = Number(match[1]);
    while (steps.length <= step) steps.push([]);
    steps[step] = [...new Set(match[2]!.split(',').map(Number))];
  }
  return steps;
}

export function formatTokensPerStep(steps: TokensPerStep): string {
  return steps.flatMap((tokens, step) => (tokens.length ? [`${step}:${tokens.join(',')}`] : [])).join(';');
}

/** The same with `token` added to a step, or taken from it. */
export function withToken(steps: TokensPerStep, step: number, token: number, present: boolean): TokensPerStep {
  const next = Array.from({ length: Math.max(steps.length, step + 1) }, (_, index) => [...(steps[index] ?? [])]);
  next[step] = next[step]!.filter((other) => other !== token);
  if (present) next[step]!.push(token);
  return next;
}

export function anyToken(steps: TokensPerStep): boolean {
  return steps.some((tokens) => tokens.length > 0);
}
