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

it('becomes a list where the terminal is too narrow', () => {
  const columns = ['run', 'accuracy', 'text changed'];
  const rows = [
    ['ivt-lr', 0.9961, null],
    ['cot', 1, 0.5],
  ];
  const wide = renderTable(columns, rows, undefined);
  const widest = Math.max(...wide.split('\n').map((line) => line.length));
  expect(renderTable(columns, rows, widest)).toBe(wide);
  expect(renderTable(columns, rows, widest - 1)).toBe(
    ['ivt-lr', '  accuracy      0.996', '  text changed  -', 'cot', '  accuracy      1', '  text changed  0.500'].join(
      '\n',
    ),
  );
});
