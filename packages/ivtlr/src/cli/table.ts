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
 * null and undefined become a dash.
 */
export function renderTable(columns: readonly (Column | string)[], rows: readonly (readonly Cell[])[]): string {
  const heads = columns.map((column) => (typeof column === 'string' ? { title: column } : column));
  const table = new Table({
    head: heads.map((head) => head.title),
    colAligns: heads.map((head: Column, index) => head.align ?? (isNumeric(rows, index) ? 'right' : 'left')),
    style: { head: [], border: [], compact: true },
  });
  for (const row of rows) table.push(heads.map((_, index) => formatCell(row[index])));
  return table.toString();
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
