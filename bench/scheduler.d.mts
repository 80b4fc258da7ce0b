export declare function waits(
  text: string,
  working: ReadonlySet<number>,
  others: ReadonlySet<number>,
): { waited: number; ran: number };
