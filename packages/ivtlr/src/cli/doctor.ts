/** `ivtlr doctor`: prints what this machine offers, and whether the numerics work. */
import type { Command } from 'commander';
import { type Check, diagnose } from '../inspect/machine-checks.ts';

const MARKS = { ok: 'ok', warn: 'note', fail: 'FAIL' } as const;

export function registerDoctor(program: Command): void {
  program
    .command('doctor')
    .description('report Node, libtorch, CPU, GPU and threads, and run a self-test')
    .option('--json', 'print the report as JSON')
    .action(async (options: { json?: boolean }) => {
      const checks = await diagnose();
      const healthy = checks.every((check) => check.status !== 'fail');
      process.stdout.write(options.json ? `${JSON.stringify({ healthy, checks }, null, 2)}\n` : formatChecks(checks));
      if (!healthy) process.exitCode = 1;
    });
}

function formatChecks(checks: readonly Check[]): string {
  const width = Math.max(...checks.map((check) => check.name.length));
  const lines = checks.flatMap((check) => {
    const line = `${MARKS[check.status].padEnd(5)}${check.name.padEnd(width + 2)}${check.value}`;
    return check.remedy ? [line, `${' '.repeat(width + 7)}-> ${check.remedy}`] : [line];
  });
  const failed = checks.filter((check) => check.status === 'fail').length;
  lines.push('', failed === 0 ? 'everything needed works' : `${failed} of ${checks.length} checks failed`);
  return `${lines.join('\n')}\n`;
}
