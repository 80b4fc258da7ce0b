/** Tables for the terminal. */
import Table from 'cli-table3';

export interface Column {
  title: string;
  /** Default: right if every cell of the column is a number, else left. */
  align?: 'left' | 'right' | 'center';
}

export type Cell = string | number | null | undefined;

/** Digits after the point of numbers that are not whole. */
const DIGITS = 3;

/**
 * Draws rows under a header, without colours, so that it reads the same in a file. Numbers get three decimals unless whole;
 * null and undefined become a dash. A table that a terminal would break becomes a list, a line for each cell.
 * @param width columns of the terminal; undefined for a file or a pipe
 */
export function renderTable(
  columns: readonly (Column | string)[],
  rows: readonly (readonly Cell[])[],
  width: number | undefined = process.stdout.columns,
): string {
  const heads = columns.map((column) => (typeof column === 'string' ? { title: column } : column));
  const table = new Table({
    head: heads.map((head) => head.title),
    colAligns: heads.map((head: Column, index) => head.align ?? (isNumeric(rows, index) ? 'right' : 'left')),
    style: { head: [], border: [], compact: true },
  });
  for (const row of rows) table.push(heads.map((_, index) => formatCell(row[index])));
  const text = table.toString();
  if (width === undefined || text.split('\n').every((line) => line.length <= width)) return text;
  return renderList(heads, rows);
}

/** Each row as a block: its first cell, then the others under their titles. */
function renderList(heads: readonly Column[], rows: readonly (readonly Cell[])[]): string {
  const longest = Math.max(...heads.slice(1).map(({ title }) => title.length));
  const blocks = rows.map((row) => {
    const others = heads
      .slice(1)
      .map(({ title }, index) => `  ${title.padEnd(longest)}  ${formatCell(row[index + 1])}`);
    return [formatCell(row[0]), ...others].join('\n');
  });
  return blocks.join('\n');
}

function isNumeric(rows: readonly (readonly Cell[])[], index: number): boolean {
  const cells = rows.map((row) => row[index]).filter((cell) => cell !== null && cell !== undefined);
  return cells.length > 0 && cells.every((cell) => typeof cell === 'number');
}

function formatCell(cell: Cell): string {
  if (cell === null || cell === undefined) return '-';
  if (typeof cell === 'string') return cell;
  return Number.isInteger(cell) ? String(cell) : cell.toFixed(DIGITS);
}
