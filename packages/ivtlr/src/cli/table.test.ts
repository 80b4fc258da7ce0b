import { expect, it } from 'vitest';
import { renderTable } from './table.ts';

it('draws a header and rows, numbers to the right, without colour codes', () => {
  const text = renderTable(
    ['run', { title: 'accuracy' }, 'steps'],
    [
      ['ivt-lr', 0.9961, 14],
      ['written chain of thought', 1, null],
    ],
  );
  expect(text).not.toContain('\x1b');
  const lines = text.split('\n').filter((line) => line.includes('│'));
  expect(lines.map((line) => line.split('│').slice(1, -1))).toEqual([
    [' run                      ', ' accuracy ', ' steps '],
    [' ivt-lr                   ', '    0.996 ', '    14 '],
    [' written chain of thought ', '        1 ', '     - '],
  ]);
});
